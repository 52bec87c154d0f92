"""The runner's image with torch and diffusers, on the tiny models: no GPU, no network, nothing to write to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reelnet.clips import probe_clip
from reelnet.pipelines import pipeline_named
from runner.models.tiny import LORA
from tests.docker.containers import Container, running, until_state
from tests.docker.engines import BUILD_S, TestEngine
from tests.fakes.media import Clip
from tests.fakes.runner import picture

pytestmark = [pytest.mark.timeout(BUILD_S), pytest.mark.diffusers]

PICTURE = picture()
CLIP = Clip(48, 32, frames=5, fps=5, sound=True).encode()
SEED: dict[str, Any] = {"seed": 11}
DRAW: dict[str, Any] = SEED | {"prompt": "a lighthouse", "num_inference_steps": 3}
SMALL: dict[str, Any] = {"width": 64, "height": 64}
FILM: dict[str, Any] = SEED | SMALL | {"num_inference_steps": 2, "num_frames": 14, "fps": 7}


@dataclass(frozen=True)
class Order:
    """A job of a pipeline, and what has to come: width and height, and of a clip frames and frames per second."""

    pipeline: str
    params: Mapping[str, Any]
    comes: tuple[int, ...]

    async def check(self, container: Container) -> None:
        """Has it run, and looks at what comes: a clip keeps the sound that it came with."""
        given = {"image": PICTURE, "video": CLIP}
        inputs = {name: given[name] for name in pipeline_named(self.pipeline).inputs}
        answer = await container.job(self.params, self.pipeline, **inputs)
        assert answer.last["event"] == "done", answer.last
        if len(self.comes) == 2:
            assert answer.pixels().shape == (*reversed(self.comes), 3)
            assert answer.pixels().std() > 1
            return
        found = probe_clip(answer.outputs[0])
        assert (found.width, found.height, found.frames, found.fps / found.fps_den) == self.comes
        assert found.sound == (probe_clip(CLIP).sound if "video" in inputs else "")


MODELS = {
    "sd": [
        Order("text-to-image", DRAW | SMALL, (64, 64)),
        Order("image-to-image", DRAW | {"loras": {"reelnet/ink": 0.8}, "output_format": "webp"}, (96, 64)),
    ],
    "svd": [
        Order("image-to-video", FILM, (64, 64, 14, 7)),
        Order("image-to-video", FILM | {"interpolate_to_fps": 24}, (64, 64, 48, 24)),
    ],
    "wan": [
        Order("image-to-video", FILM | {"prompt": "a fox", "num_frames": 5, "video_codec": "av1"}, (64, 64, 5, 7)),
    ],
    "sd-x4": [Order("upscale", DRAW, (384, 256))],
    "esrgan": [
        Order("upscale", SEED, (384, 256)),
        Order("upscale-video", SEED, (192, 128, 5, 5)),
    ],
    "film": [Order("frame-interpolation", SEED | {"fps": 10}, (48, 32, 10, 10))],
}
"""For each tiny model, a job of each of its pipelines."""


@pytest.fixture(scope="module")
def full_image(docker_engine: TestEngine) -> str:
    """The id of the runner's whole image."""
    return docker_engine.build("full")


@pytest.fixture(scope="module")
def readable_models(tiny_models: Path) -> Path:
    """The tiny models; what pytest makes is for its own user, and the container has another one."""
    tiny_models.chmod(0o755)
    return tiny_models


def options(models: Path, model: str) -> tuple[str, ...]:
    """Weights are read, never written; two threads, as other tests run beside."""
    return (f"--volume={models}:/models:ro", f"--env=REELNET_RUNNER_MODEL={model}", "--env=REELNET_RUNNER_THREADS=2")


def torch_of(container: Container) -> str:
    """The CUDA version that the container's torch was built for."""
    return container.run("python", "-c", "import torch; print(torch.version.cuda)")


@pytest.mark.parametrize("model", MODELS)
async def test_every_pipeline_of_a_model_runs(
    docker_engine: TestEngine, full_image: str, tmp_path: Path, readable_models: Path, model: str
) -> None:
    """By true model code, with nothing to write to and no network, and with what lies in the model's own folder."""
    loras = json.dumps([{"folder": LORA, "id": "reelnet/ink"}] if model == "sd" else [])
    given = (*options(readable_models, f"reelnet/tiny-random-{model}"), f"--env=REELNET_RUNNER_LORAS={loras}")
    async with running(docker_engine, full_image, tmp_path, *given) as container:
        await until_state(container, tmp_path, "READY")
        info = (await container.http.get("/info")).json()
        assert {row["pipeline"] for row in info["pipelines"]} == {order.pipeline for order in MODELS[model]}
        for order in MODELS[model]:
            await order.check(container)


async def test_it_is_built_for_a_card_and_can_compile(
    docker_engine: TestEngine, full_image: str, tmp_path: Path, readable_models: Path
) -> None:
    """Its torch is CUDA's; Triton builds its launchers with a C compiler and Python's headers, as the runner's user."""
    script = (
        "import subprocess, sysconfig; "
        "subprocess.run(['g++', '-fsyntax-only', '-x', 'c++', '-I', sysconfig.get_path('include'), '-'], "
        "input=b'#include <Python.h>', check=True); print('built')"
    )
    models = options(readable_models, "reelnet/tiny-random-sd")
    async with running(docker_engine, full_image, tmp_path, *models) as container:
        assert torch_of(container).split(".")[0].isdecimal()
        assert container.run("python", "-c", script).strip() == "built"
