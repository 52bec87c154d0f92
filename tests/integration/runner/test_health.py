"""What a runner says of itself while it is not ready."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from reelnet.errors import OutOfMemoryError
from runner.app import build
from runner.backend import ModelInfo, SetupError
from runner.settings import RunnerSettings
from runner.synthetic import SyntheticBackend
from runner.worker import State
from tests.fakes.runner import PATIENCE_S, BrokenBackend, parts, serving, settings

FOX: dict[str, Any] = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 1}


class SlowLoad(SyntheticBackend):
    """Loads until it is let go."""

    def __init__(self) -> None:
        super().__init__("synthetic/slow-load")
        self.go = threading.Event()

    def load(self) -> ModelInfo:
        assert self.go.wait(PATIENCE_S)
        return super().load()


async def test_it_answers_while_the_model_loads(tmp_path: Path) -> None:
    """LOADING is a state like others; jobs and info have to wait."""
    backend = SlowLoad()
    async with serving(build(settings(), backend), tmp_path) as client:
        health = await client.until(State.LOADING)
        assert health["since_s"] >= 0
        info, job = await client.http.get("/info"), await client.http.post("/jobs", files=parts(params=FOX))
        assert (info.status_code, job.status_code) == (503, 503)
        assert job.json()["detail"]["class"] == "busy"
        backend.go.set()
        await client.until(State.READY)


@pytest.mark.parametrize("error", [SetupError("no such folder; name another"), OSError("disk"), MemoryError("9 GiB")])
async def test_a_failed_setup_is_told_and_stays(tmp_path: Path, error: Exception) -> None:
    """The process stays up and says why it is of no use."""
    async with serving(build(settings(), BrokenBackend(load=error)), tmp_path) as client:
        health = await client.until(State.SETUP_FAILED)
        assert str(error) in health["reason"]
        refused = await client.http.post("/jobs", files=parts(params=FOX))
        assert refused.status_code == 503
        assert refused.json()["detail"]["code"] == "setup_failed"
        assert (await client.http.get("/info")).status_code == 503


async def test_a_missing_model_folder_is_a_failed_setup(tmp_path: Path) -> None:
    """The diffusers backend says which folder it looked for."""
    missing = RunnerSettings(model=str(tmp_path / "nowhere"), stop_timeout_s=30)
    async with serving(build(missing), tmp_path) as client:
        health = await client.until(State.SETUP_FAILED)
        assert f"{tmp_path}/nowhere: there is no such model folder" in health["reason"]


async def test_a_device_that_computes_no_more_makes_the_runner_defunct(tmp_path: Path) -> None:
    """After a failure the backend has to prove itself; if it cannot, no job is taken any more."""
    backend = BrokenBackend(run=RuntimeError("device-side assert"), recover=RuntimeError("device lost"))
    async with serving(build(settings(), backend), tmp_path) as client:
        await client.until(State.READY)
        assert (await client.run(params=FOX)).last["class"] == "node"
        health = await client.health()
        assert health["state"] == "DEFUNCT"
        assert "RuntimeError" in health["reason"]
        assert (await client.http.post("/jobs", files=parts(params=FOX))).status_code == 503


@pytest.mark.parametrize(("code", "state"), [("estimate", "READY"), ("out_of_memory", "DEFUNCT")])
async def test_only_what_has_touched_the_device_puts_it_to_the_proof(tmp_path: Path, code: str, state: str) -> None:
    """A job that was refused for its estimate says nothing of the device; one that ran out of memory may have."""
    backend = BrokenBackend(run=OutOfMemoryError("too large", code=code), recover=RuntimeError("device lost"))
    async with serving(build(settings(), backend), tmp_path) as client:
        await client.until(State.READY)
        assert (await client.run(params=FOX)).last["code"] == code
        assert (await client.health())["state"] == state
