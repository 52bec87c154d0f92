"""What the tests of a card run: each family's tiny model, a job of it, and models loaded as settings say."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from reelnet.warnings import JobWarning
from runner.backend import Frames, ModelInfo, Pixels, RunnerJob, Sketch
from runner.diffusion import DiffusersBackend
from runner.settings import RunnerSettings

DEVICE = os.environ.get("REELNET_TEST_DEVICE", "cuda")
"""Where the tests of a card run: `cpu` tries the tests themselves."""


class Case(NamedTuple):
    """A tiny model by the end of its name, and a job of it."""

    model: str
    pipeline: str
    params: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.model}-{self.pipeline}"


SMALL = {"prompt": "a boat", "width": 128, "height": 128, "num_inference_steps": 4}
EDIT = {"prompt": "a boat", "num_inference_steps": 4}
WORDS = {"prompt": "a boat sails", "width": 128, "height": 72, "num_frames": 9, "num_inference_steps": 2}
FILM = {"width": 128, "height": 128, "num_inference_steps": 2, "num_frames": 3}
DRAWN = tuple(Case(name, "text-to-image", SMALL) for name in ("sd", "sdxl", "sd3", "flux"))
CHANGED = tuple(Case(name, "image-to-image", EDIT) for name in ("sd", "sdxl", "sd3", "flux", "instruct-pix2pix"))
FILMED = Case("svd", "image-to-video", FILM)
WORDED = tuple(Case(name, "image-to-video", WORDS) for name in ("wan", "wan-a14b", "wan-ti2v"))
UPSCALED = (Case("esrgan", "upscale", {}), Case("sd-x4", "upscale", {"num_inference_steps": 2}))
CASES = (*DRAWN, *CHANGED, FILMED, *WORDED, *UPSCALED)


class Steps:
    """Counts progress, and draws what it is shown."""

    def __init__(self) -> None:
        self.count = 0
        self.shown: list[Pixels] = []

    def step(self, stage: str, step: int, total: int) -> None:
        self.count += 1

    def sketch(self, sketch: Sketch) -> None:
        self.shown.append(sketch.draw())

    def warn(self, warning: JobWarning) -> None:
        """Nothing."""


class Ready(DiffusersBackend):
    """A model that says what it serves."""

    info: ModelInfo

    def load(self) -> ModelInfo:
        self.info = super().load()
        return self.info


@contextlib.contextmanager
def loaded(models: Path, model: str, **settings: Any) -> Iterator[Ready]:
    """A tiny model, ready on its device; let go at the end."""
    folder = str(models / f"reelnet/tiny-random-{model}")
    backend = Ready(RunnerSettings.model_validate({"model": folder, **settings}))
    backend.load()
    yield backend
    backend.close()


def render(backend: Ready, case: Case, **changes: Any) -> Frames:
    """The frames of the job's first output; its seed is 1."""
    return watch(backend, case, **changes)[0]


def watch(backend: Ready, case: Case, **changes: Any) -> tuple[Frames, Steps]:
    """The same, with what was reported on the way."""
    row = backend.info.serving(case.pipeline)
    assert row
    inputs = {"image": Image.radial_gradient("L").resize((128, 128)).convert("RGB")} if row.kind.inputs else {}
    params = row.kind.parse({**case.params, "seed": 1, **changes})
    job = RunnerJob("job", 1, case.pipeline, params, inputs, family=row.family)
    steps = Steps()
    return next(iter(backend.run(job, steps))).frames, steps


def apart(left: Frames, right: Frames) -> float:
    """Mean difference of two outputs, of 255."""
    return float(np.abs(left.astype(int) - right).mean())
