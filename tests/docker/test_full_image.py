"""The runner's image with torch and diffusers, on the tiny models: no GPU, no network, nothing to write to."""

from __future__ import annotations

import io
from pathlib import Path

import av
import pytest

from tests.docker.containers import Container, running, until_state
from tests.docker.engines import BUILD_S, TestEngine
from tests.fakes.runner import picture

pytestmark = [pytest.mark.timeout(BUILD_S), pytest.mark.diffusers]

DRAW = {"prompt": "a lighthouse", "width": 64, "height": 64, "num_inference_steps": 3, "seed": 11}
CLIP = {"width": 64, "height": 64, "num_inference_steps": 2, "num_frames": 14, "fps": 7, "seed": 11}


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


async def test_it_draws(docker_engine: TestEngine, full_image: str, tmp_path: Path, readable_models: Path) -> None:
    """Text to image by true model code; torch is built for CUDA and works without a GPU."""
    models = options(readable_models, "reelnet/tiny-random-sd")
    async with running(docker_engine, full_image, tmp_path, *models) as container:
        await until_state(container, tmp_path, "READY")
        answer = await container.job(DRAW)
        assert answer.last["event"] == "done", answer.last
        assert answer.pixels().shape == (64, 64, 3)
        assert answer.pixels().std() > 1
        assert torch_of(container).split(".")[0].isdecimal()


async def test_it_films(docker_engine: TestEngine, full_image: str, tmp_path: Path, readable_models: Path) -> None:
    """Image to video by true model code, in the same image; FILM in the model's folder is seen there too."""
    models = options(readable_models, "reelnet/tiny-random-svd")
    async with running(docker_engine, full_image, tmp_path, *models) as container:
        await until_state(container, tmp_path, "READY")
        for params, frames in ((CLIP, 14), (CLIP | {"interpolate_to_fps": 24}, 46)):
            answer = await container.job(params, "image-to-video", picture())
            assert answer.last["event"] == "done", answer.last
            with av.open(io.BytesIO(answer.outputs[0])) as clip:
                assert len(list(clip.decode(video=0))) == frames


async def test_it_has_what_compiling_needs(
    docker_engine: TestEngine, full_image: str, tmp_path: Path, readable_models: Path
) -> None:
    """Triton builds its launchers with a C compiler and Python's headers, as the runner's user."""
    script = (
        "import subprocess, sysconfig; "
        "subprocess.run(['g++', '-fsyntax-only', '-x', 'c++', '-I', sysconfig.get_path('include'), '-'], "
        "input=b'#include <Python.h>', check=True); print('built')"
    )
    models = options(readable_models, "reelnet/tiny-random-sd")
    async with running(docker_engine, full_image, tmp_path, *models) as container:
        assert container.run("python", "-c", script).strip() == "built"
