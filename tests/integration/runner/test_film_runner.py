"""FILM with narrow layers and random weights, in a real runner."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from reelnet.clips import probe_clip
from runner.app import build
from runner.diffusion import DiffusersBackend
from runner.settings import RunnerSettings
from runner.worker import State
from tests.fakes.media import Clip
from tests.fakes.runner import GatedBackend, collect, serving

pytestmark = pytest.mark.diffusers
GIVEN = Clip(frames=5, fps=5, sound=True).encode()
JOB: dict[str, Any] = {"pipeline": "frame-interpolation", "params": {"seed": 1, "fps": 15}, "video": GIVEN}


def _settings(models: Path) -> RunnerSettings:
    return RunnerSettings(
        model="reelnet/tiny-random-film", models_home=models, tick_s=0.5, threads=1, stop_timeout_s=60
    )


def _frames(data: bytes) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(data)) as clip:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]).astype(int)


async def test_frames_are_made_between_those_there_are(tiny_models: Path, tmp_path: Path) -> None:
    """Three times the rate: every third frame is the input's, the others are the network's; the sound stays."""
    async with serving(build(_settings(tiny_models)), tmp_path) as client:
        health = await client.until(State.READY, State.SETUP_FAILED)
        assert health["state"] == "READY", health["reason"]
        answer = await client.run(**JOB)
        assert answer.last["event"] == "done", answer.last
        assert answer.last["class"] == "FilmInterpolation"
        assert [(r["step"], r["total"]) for r in answer.named("progress") if r["stage"] == "interpolate"][-1] == (
            15,
            15,
        )
        (data,) = answer.outputs
        before, after = _frames(GIVEN), _frames(data)
        assert probe_clip(data).sound == probe_clip(GIVEN).sound != ""
        assert after.shape == (15, *before.shape[1:])
        assert np.abs(after[::3] - before).mean() < 8
        assert np.abs(after[1] - (before[0] + before[1]) / 2).mean() > 8, "random weights make something of their own"
        assert (await client.run(**JOB)).outputs == answer.outputs


async def test_a_canceled_job_leaves_no_trace(tiny_models: Path, tmp_path: Path) -> None:
    """It stops at its next frame, and the job after it is as any other."""
    gate = GatedBackend(DiffusersBackend(_settings(tiny_models)), step=2, stage="interpolate")
    async with serving(build(_settings(tiny_models), gate), tmp_path) as client:
        await client.until(State.READY)
        async with client.stream(**JOB) as response:
            await gate.wait_held()
            assert (await client.health())["step"] == {"stage": "interpolate", "step": 1, "total": 15}
            await client.http.delete("/jobs/job-1")
            gate.open()
            assert (await collect(response)).last["class"] == "canceled"
        assert (await client.run(**JOB)).last["event"] == "done"
