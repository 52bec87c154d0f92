"""The diffusers backend on a CUDA device, on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reelnet.pipelines import PIPELINES
from runner.backend import Pixels, RunnerJob, Sketch
from runner.diffusion import DiffusersBackend
from runner.settings import RunnerSettings

pytestmark = pytest.mark.gpu

SMALL = {"prompt": "a boat", "width": 128, "height": 128, "num_inference_steps": 4}
WORDS = {"prompt": "a boat sails", "width": 128, "height": 72, "num_frames": 9, "num_inference_steps": 2}
EDIT = {"prompt": "a boat", "num_inference_steps": 4}
CASES = [
    ("tiny-random-sd", "text-to-image", SMALL),
    *((f"tiny-random-{name}", "text-to-image", SMALL) for name in ("sdxl", "sd3", "flux")),
    *((f"tiny-random-{name}", "image-to-image", EDIT) for name in ("sd", "sdxl", "sd3", "flux", "instruct-pix2pix")),
    ("tiny-random-svd", "image-to-video", {"width": 128, "height": 128, "num_inference_steps": 2}),
    *((f"tiny-random-{name}", "image-to-video", WORDS) for name in ("wan", "wan-a14b", "wan-ti2v")),
    ("tiny-random-esrgan", "upscale", {}),
    ("tiny-random-sd-x4", "upscale", {"num_inference_steps": 2}),
]


class Steps:
    """Counts progress, and draws what it is shown."""

    def __init__(self) -> None:
        self.count = 0
        self.shown: list[Pixels] = []

    def step(self, stage: str, step: int, total: int) -> None:
        self.count += 1

    def sketch(self, sketch: Sketch) -> None:
        self.shown.append(sketch.draw())


@pytest.mark.parametrize(("model", "pipeline", "params"), CASES)
def test_a_model_computes_on_the_card(tiny_models: Path, model: str, pipeline: str, params: dict[str, Any]) -> None:
    """The model is on the device, its output is no constant, and the same request gives the same frames."""
    backend = DiffusersBackend(RunnerSettings.model_validate({"model": str(tiny_models / "reelnet" / model)}))
    info = backend.load()
    assert info.device.startswith("cuda")
    assert info.vram_bytes > 0
    row = info.serving(pipeline)
    assert row
    inputs = {"image": Image.radial_gradient("L").convert("RGB")} if row.kind.inputs else {}
    job = RunnerJob("job", 1, pipeline, row.kind.parse({**params, "seed": 1}), inputs, family=row.family)
    first, second = [next(iter(backend.run(job, Steps()))).frames for _ in range(2)]
    assert first.std() > 1
    assert np.array_equal(first, second)
    backend.recover()
    backend.close()


@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.parametrize("pipeline", ["text-to-image", "image-to-image"])
def test_an_offloaded_model_draws_the_same(tiny_models: Path, offload: str, pipeline: str) -> None:
    """Where its nets wait is no matter for the picture."""
    frames = []
    for where in ("none", offload):
        options = {"model": str(tiny_models / "reelnet/tiny-random-sdxl"), "offload": where, "channels_last": False}
        backend = DiffusersBackend(RunnerSettings.model_validate(options))
        backend.load()
        inputs = {"image": Image.radial_gradient("L").convert("RGB")} if pipeline == "image-to-image" else {}
        params = PIPELINES[pipeline].parse({**(EDIT if inputs else SMALL), "seed": 1})
        frames.append(next(iter(backend.run(RunnerJob("job", 1, pipeline, params, inputs), Steps()))).frames)
        backend.close()
    assert np.abs(frames[0].astype(int) - frames[1].astype(int)).mean() < 1


@pytest.mark.parametrize("offload", ["none", "model"])
@pytest.mark.parametrize(("model", "pipeline", "params"), [case for case in CASES if case[1] != "upscale"])
def test_a_card_shows_its_pictures_and_draws_the_same(
    tiny_models: Path, model: str, pipeline: str, params: dict[str, Any], offload: str
) -> None:
    """Previews come off the device, and the frames are those without them, with the nets in whichever memory."""
    options = {"model": str(tiny_models / "reelnet" / model), "offload": offload}
    backend = DiffusersBackend(RunnerSettings.model_validate(options))
    backend.load()
    inputs = {"image": Image.radial_gradient("L").convert("RGB")} if PIPELINES[pipeline].inputs else {}
    frames, shown = [], []
    for steps in (0, 1, 0):
        asked = PIPELINES[pipeline].parse({**params, "seed": 1, "preview_steps": steps})
        seen = Steps()
        frames.append(next(iter(backend.run(RunnerJob("job", 1, pipeline, asked, inputs), seen))).frames)
        shown.append(seen.shown)
    assert np.array_equal(frames[0], frames[1])
    assert np.array_equal(frames[0], frames[2])
    assert not shown[0]
    assert shown[1]
    assert all(pixels.std() > 1 for pixels in shown[1])
    backend.close()
