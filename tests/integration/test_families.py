"""Two families of one pipeline in a pool: the model decides which parameters a request has, and what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine import RunnerSpec
from reelnet.clips import probe_clip
from reelnet.parameters import PromptedVideo
from reelnet.pipelines import FAMILIES, VERSION, Work
from reelnet.pricing import Rates, format_money, price
from runner.app import make_backend
from runner.settings import RunnerSettings
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool
from tests.fakes.runner import GatedBackend, picture

PIPELINE = "image-to-video"
SVD, WAN, EDIT = "synthetic/svd", "synthetic/wan", "synthetic/edit"
RATES = {"mpix_step": "0.000007"}
WORDS: dict[str, Any] = {
    "model_id": WAN, "prompt": "a boat sails", "width": 72, "height": 64, "num_frames": 9, "fps": 12, "seed": 3,
}  # fmt: skip
OF_AN_SVD_CLIENT: dict[str, Any] = {
    "model_id": WAN, "width": 128, "height": 64, "fps": 6, "motion_bucket_id": 127, "noise_aug_strength": 0.02,
    "num_inference_steps": 25, "safety_check": "true", "seed": "",
}  # fmt: skip
"""What the published clients send of themselves."""
OF_AN_IMAGE_CLIENT: dict[str, Any] = {
    "model_id": EDIT, "prompt": "make it night", "strength": "0.8", "image_guidance_scale": "1.5", "seed": "7",
    "num_inference_steps": "100",
}  # fmt: skip


def _plan(home: Path, engine: InProcessEngine) -> PoolPlan:
    """A node that serves the pipeline as both families, at prices of their own, and pictures changed by words."""
    editing = {"synthetic": {"unit_s": 0, "families": {"image-to-image": "pix2pix"}}}
    prompted = {"synthetic": {"unit_s": 0, "families": {PIPELINE: "wan"}}}
    models = [
        {"model": SVD, "pipelines": {PIPELINE: {}}, "backend": {"synthetic": {"unit_s": 0}}},
        {"model": WAN, "pipelines": {PIPELINE: {"price": RATES}}, "backend": prompted},
        {"model": EDIT, "pipelines": {"image-to-image": {"price": RATES}}, "backend": editing},
    ]
    return PoolPlan(home, [engine], models)


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[Pool]:
    """A node with both, and a broadcaster."""
    async with running_pool(_plan(tmp_path, InProcessEngine())) as running:
        yield running


async def test_the_model_decides_the_family(pool: Pool) -> None:
    """A prompted clip is what its parameters promise, and costs what they work; SVD's is as it was."""
    answer = await pool.job(PIPELINE, WORDS, picture())
    (data,) = await pool.outputs(answer)
    found = probe_clip(data)
    assert (found.width, found.height, found.frames, found.fps, found.fps_den) == (72, 64, 9, 12, 1)
    params = PromptedVideo(**{name: value for name, value in WORDS.items() if name != "model_id"})
    work = FAMILIES[PIPELINE, "wan"].work(params)
    assert work.pixel_steps == 72 * 64 * 9 * params.num_inference_steps
    assert answer.json()["job"]["price"] == format_money(price(work, Rates.parse(RATES)))
    (data,) = await pool.outputs(await pool.job(PIPELINE, {"model_id": SVD, "width": 64, "height": 64}, picture()))
    assert probe_clip(data).frames == 14


async def test_the_defaults_are_the_family_s(pool: Pool) -> None:
    """What a request does not name, the model's family says."""
    (data,) = await pool.outputs(await pool.job(PIPELINE, {"model_id": WAN, "width": 64, "height": 64}, picture()))
    found = probe_clip(data)
    assert (found.frames, found.fps) == (81, 16)


async def test_a_ticket_names_the_family(tmp_path: Path) -> None:
    """Its schema is what the node advertises, its parameters are complete in it."""
    gates: list[GatedBackend] = []

    def gated(_: RunnerSpec, settings: RunnerSettings) -> GatedBackend:
        gates.append(GatedBackend(make_backend(settings), step=1))
        return gates[-1]

    async with running_pool(_plan(tmp_path, InProcessEngine(backend=gated))) as pool, asyncio.TaskGroup() as group:
        job = group.create_task(pool.job(PIPELINE, WORDS, picture()))
        await gates[1].wait_held()
        (attempt,) = pool.nodes[0].node.attempts()
        assert attempt.ticket.schema == f"{PIPELINE}/wan@{VERSION}"
        params = FAMILIES[PIPELINE, "wan"].parse_json(attempt.ticket.params)
        assert isinstance(params, PromptedVideo)
        assert not params.missing()
        for gate in gates:
            gate.open()
        assert (await job).status_code == 200


async def test_another_family_s_defaults_ask_for_nothing(pool: Pool) -> None:
    """A client that knows SVD alone gets a clip of another model; what it asks of SVD is refused by name."""
    (data,) = await pool.outputs(await pool.job(PIPELINE, OF_AN_SVD_CLIENT, picture()))
    found = probe_clip(data)
    assert (found.width, found.height, found.frames, found.fps) == (128, 64, 81, 6)
    answer = await pool.job(PIPELINE, OF_AN_SVD_CLIENT | {"motion_bucket_id": 10}, picture())
    assert answer.status_code == 422
    (row,) = answer.json()["detail"]
    assert row["loc"] == ["body", "motion_bucket_id"]
    assert (await pool.job(PIPELINE, {**WORDS, "model_id": SVD, "num_frames": 14}, picture())).status_code == 422
    neutral = {"model_id": SVD, "prompt": "", "width": 64, "height": 64}
    assert (await pool.job(PIPELINE, neutral, picture())).status_code == 200


async def test_frames_that_the_model_does_not_draw_are_refused_at_once(pool: Pool) -> None:
    """With the nearest that it draws."""
    answer = await pool.job(PIPELINE, {**WORDS, "num_frames": 14}, picture())
    assert answer.status_code == 422
    assert "the nearest are 13 and 17" in answer.text


async def test_an_edit_is_priced_by_all_of_its_steps(pool: Pool) -> None:
    """It has no strength: that of a client that sends its default is dropped, another one is refused by name."""
    answer = await pool.job("image-to-image", OF_AN_IMAGE_CLIENT, picture(96, 64))
    assert answer.status_code == 200, answer.text
    assert answer.json()["job"]["price"] == format_money(price(Work(96 * 64 * 100, 96 * 64), Rates.parse(RATES)))
    answer = await pool.job("image-to-image", OF_AN_IMAGE_CLIENT | {"strength": "0.5"}, picture(96, 64))
    assert answer.status_code == 422
    (row,) = answer.json()["detail"]
    assert row["loc"] == ["body", "strength"]
