"""A picture's clip with frames made between the model's: some nodes have the network, and they alone get the job."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.engine import RunnerSpec
from reelnet.clips import probe_clip
from reelnet.jobs import Ticket
from runner.backend import ModelInfo
from runner.settings import RunnerSettings
from runner.synthetic import SyntheticBackend
from tests.fakes.lying_node import LyingNode, capability, delivery, running, whole
from tests.fakes.media import Clip
from tests.fakes.pool import (
    PATIENCE_S,
    InProcessEngine,
    Pool,
    PoolPlan,
    broadcaster_settings,
    ready,
    running_broadcaster,
    running_pool,
)
from tests.fakes.runner import picture

PIPELINE = "image-to-video"
RATE = {"mpix_step": "0.01"}
CLIP: dict[str, Any] = {"width": 96, "height": 64, "num_frames": 14, "fps": 7, "num_inference_steps": 2, "seed": 3}
FASTER = CLIP | {"interpolate_to_fps": 24}


class WithoutFilm(SyntheticBackend):
    """A runner that has no network for frames between frames."""

    def load(self) -> ModelInfo:
        info = super().load()
        return replace(info, served=tuple(replace(row, features=()) for row in info.served))


def without_film(spec: RunnerSpec, settings: RunnerSettings) -> SyntheticBackend:
    return WithoutFilm(settings.advertised_id, settings.synthetic)


@contextlib.asynccontextmanager
async def pool(home: Path, *engines: InProcessEngine) -> AsyncIterator[Pool]:
    """Nodes that offer image-to-video at one rate."""
    model = {
        "model": "synthetic/bars",
        "backend": {"synthetic": {"unit_s": 0}},
        "pipelines": {PIPELINE: {"price": RATE}},
    }
    async with running_pool(PoolPlan(home, list(engines), [model])) as made:
        yield made


async def test_the_job_goes_to_the_node_with_film(tmp_path: Path) -> None:
    """Each time and at once, though the other node could be asked as well; the clip is as promised."""
    async with pool(tmp_path, InProcessEngine(without_film), InProcessEngine()) as nodes:
        answers = [await nodes.job(PIPELINE, FASTER | {"seed": seed}, picture()) for seed in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 8
        jobs = [answer.json()["job"] for answer in answers]
        assert {job["node"] for job in jobs} == {nodes.nodes[1].address.partition("#")[2]}
        assert {job["attempts"] for job in jobs} == {1}
        (data,) = await nodes.outputs(answers[0])
        found = probe_clip(data)
        assert (found.width, found.height, found.frames, found.fps, found.fps_den) == (96, 64, 48, 24, 1)


async def test_a_pool_without_film_says_what_to_leave_out(tmp_path: Path) -> None:
    """422 by the parameter's name, before any node is asked."""
    async with pool(tmp_path, InProcessEngine(without_film)) as nodes:
        answer = await nodes.job(PIPELINE, FASTER, picture())
        assert answer.status_code == 422
        error, (row,) = answer.json()["error"], answer.json()["detail"]
        assert (error["class"], error["code"]) == ("unsupported", "interpolation")
        assert row["loc"] == ["body", "interpolate_to_fps"]
        assert error["message"].endswith("leave interpolate_to_fps out")
        assert (await nodes.job(PIPELINE, CLIP, picture())).status_code == 200


async def test_frames_that_are_made_are_paid(tmp_path: Path) -> None:
    """Each costs what a step of a frame does: 43 of the 48, as two are the model's and three show its last one on."""
    async with pool(tmp_path, InProcessEngine()) as nodes:
        prices = [(await nodes.job(PIPELINE, params, picture())).json()["job"]["price"] for params in (CLIP, FASTER)]
    steps = {"plain": 14 * 2, "faster": 14 * 2 + 43}
    assert [Fraction(text) for text in prices] == [
        Fraction(96 * 64 * count, 10**6) * Fraction(RATE["mpix_step"]) for count in steps.values()
    ]


def answer_with(clip: Clip) -> Any:
    def script(ticket: Ticket) -> list[Any]:
        return whole(ticket, *delivery(clip.encode(), media_type="video/mp4"))

    return script


@pytest.mark.parametrize(
    ("clip", "code"),
    [
        (Clip(96, 64, frames=48, fps=24), None),
        (Clip(96, 64, frames=14, fps=7), "frames"),
        (Clip(96, 64, frames=47, fps=24), "frames"),
        (Clip(96, 64, frames=48, fps=23), "fps"),
    ],
)
async def test_frames_and_rate_are_checked(tmp_path: Path, clip: Clip, code: str | None) -> None:
    """A node that took the job and delivers the model's frames alone, or at another rate, has failed it."""
    node = LyingNode(answer_with(clip), replace(capability(pipeline=PIPELINE), features=("interpolation",)))
    async with running(node) as address:
        settings = broadcaster_settings(tmp_path, [address])
        async with running_broadcaster(settings) as broadcaster:
            await ready(broadcaster, 1)
            async with httpx.AsyncClient(base_url=broadcaster.url, timeout=PATIENCE_S) as http:
                fields = {name: str(value) for name, value in FASTER.items()}
                answer = await http.post(
                    f"/{PIPELINE}", data=fields, files={"image": ("a.png", picture(), "image/png")}
                )
    assert answer.status_code == (500 if code else 200), answer.text
    if code:
        assert (answer.json()["error"]["class"], answer.json()["error"]["code"]) == ("node", code)
