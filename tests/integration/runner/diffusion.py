"""Served runners of tiny models, for the tests of true model code."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np

from runner.app import build
from runner.settings import RunnerSettings
from runner.worker import State
from tests.fakes.runner import Answer, GatedBackend, RunnerClient, picture, serving

VISIBLE = 1.0
"""Mean difference of two pictures, of 255, that nobody calls rounding."""
FOX: dict[str, Any] = {"prompt": "a red fox", "seed": 1, "width": 192, "height": 128, "num_inference_steps": 3}
EDIT: dict[str, Any] = {"prompt": "a red fox", "seed": 1, "num_inference_steps": 4}
PICTURE = picture(160, 120)


@contextlib.asynccontextmanager
async def running(
    models: Path, name: str, folder: Path, gate: GatedBackend | None = None, **values: Any
) -> AsyncIterator[RunnerClient]:
    """A runner of a tiny model (`sd`), or of a model's folder, that is ready."""
    async with serving(build(runner_settings(models, name, **values), gate), folder) as client:
        health = await client.until(State.READY, State.SETUP_FAILED)
        assert health["state"] == "READY", health["reason"]
        yield client


async def setup_failure(models: Path, name: str, folder: Path, **values: Any) -> str:
    """Why a runner of a tiny model cannot be set up."""
    async with serving(build(runner_settings(models, name, **values)), folder) as client:
        health = await client.until(State.READY, State.SETUP_FAILED)
        assert health["state"] == "SETUP_FAILED"
        return str(health["reason"])


def runner_settings(models: Path, name: str, **values: Any) -> RunnerSettings:
    """Settings of a runner of a tiny model, by the end of its name, or of a model's folder."""
    model = name if name.startswith("/") else f"reelnet/tiny-random-{name}"
    return RunnerSettings(model=model, models_home=models, stop_timeout_s=60, tick_s=0.5, **values)


async def draw(client: RunnerClient, **changes: Any) -> Answer:
    """A picture from words."""
    return done(await client.run(params=FOX | changes))


async def change(client: RunnerClient, image: bytes = PICTURE, **changes: Any) -> Answer:
    """A picture from a picture."""
    return done(await client.run(pipeline="image-to-image", params=EDIT | changes, image=image))


async def shown(client: RunnerClient, **order: Any) -> Answer:
    """A job's answer with a preview at least: on a busy machine a job may be done before the first one is drawn."""
    for _ in range(10):
        answer = done(await client.run(**order))
        if answer.previews:
            return answer
    raise AssertionError("no preview in ten jobs")


def done(answer: Answer) -> Answer:
    """An answer that is a success."""
    assert answer.last["event"] == "done", answer.last
    return answer


def apart(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Mean difference of two pictures, of 255."""
    return float(np.abs(a - b).mean())
