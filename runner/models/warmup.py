"""One short job of each pipeline and size before a model is said to be ready: no job pays for compilation."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from typing import Any

from PIL import Image
from pydantic import ValidationError

from reelnet.errors import OutOfMemoryError, RefusedError
from reelnet.parameters import ImageToVideo
from reelnet.pipelines import explain
from runner.backend import Deaf, RunnerJob, Served, SetupError
from runner.models.memory import denoisers
from runner.pipelines.family import Family

_STEPS = 2
"""The second step of a scheduler may differ from the first."""
_SIDE = 512
"""Of the input of a pipeline that has no size of its own."""
_FIELDS = ("width", "height", "num_frames")


def own_size(pipe: Any) -> tuple[int, ...]:
    """Width and height, and frames of a clip, of what a model was trained for, as far as its net tells.

    Empty where it tells nothing: the pipeline's own defaults are meant.
    """
    config = denoisers(pipe)[0].config
    if frames := getattr(config, "num_frames", None):
        clip = ImageToVideo(num_frames=frames)
        return clip.width, clip.height, clip.num_frames
    sample = getattr(pipe, "default_sample_size", None) or getattr(config, "sample_size", None)
    return (sample * pipe.vae_scale_factor,) * 2 if isinstance(sample, int) else ()


def warm_up(family: Family, sizes: Iterable[tuple[int, ...]]) -> None:
    """Runs a job of two steps in each size through every pipeline that the family serves.

    Raises SetupError for a size that a pipeline does not take, or that does not fit.
    """
    for size in sizes:
        for row in family.served:
            job = _job(row, size)
            try:
                with contextlib.suppress(RefusedError):  # a safety checker may see something in what two steps draw
                    for _ in family.render(job, Deaf()):
                        pass
            except OutOfMemoryError:
                raise SetupError(f"warmup: {_text(size)} does not fit into the device's memory; name smaller") from None


def _job(row: Served, size: tuple[int, ...]) -> RunnerJob:
    pipeline = row.kind
    raw = {"prompt": "warm-up", "seed": 0, "num_inference_steps": _STEPS, **dict(zip(_FIELDS, size, strict=False))}
    known = pipeline.params.model_fields
    try:
        params = pipeline.parse({name: value for name, value in raw.items() if name in known})
    except ValidationError as error:
        raise SetupError(f"warmup: {_text(size)}: {explain(error, pipeline.params)}") from None
    width, height, *_ = size or (getattr(params, "width", _SIDE), getattr(params, "height", _SIDE))
    inputs = {name: Image.new("RGB", (width, height), "grey") for name in pipeline.inputs}
    return RunnerJob("warm-up", 1, row.pipeline, params, inputs, canceled=threading.Event(), family=row.family)


def _text(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size)) or "the default size"
