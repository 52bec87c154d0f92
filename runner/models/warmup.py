"""One step of each pipeline before a model is said to be ready: what compilation costs is paid by no job."""

from __future__ import annotations

import threading

from PIL import Image

from runner.backend import RunnerJob, Sketch
from runner.pipelines.family import Family

_SIDE = 512


def warm_up(family: Family) -> None:
    """Runs a job of two steps through every pipeline that the family serves."""
    for row in family.served:
        pipeline = row.kind
        raw = {"prompt": "warm-up", "seed": 0, "num_inference_steps": 2, "width": _SIDE, "height": _SIDE}
        params = pipeline.parse({name: value for name, value in raw.items() if name in pipeline.params.model_fields})
        inputs = {name: Image.new("RGB", (_SIDE, _SIDE), "grey") for name in pipeline.inputs}
        job = RunnerJob("warm-up", 1, row.pipeline, params, inputs, canceled=threading.Event(), family=row.family)
        for _ in family.render(job, _Deaf()):
            pass


class _Deaf:
    """Hears of steps, and does nothing."""

    def step(self, stage: str, step: int, total: int) -> None:
        """As Reporter.step."""

    def sketch(self, sketch: Sketch) -> None:
        """As Reporter.sketch."""
