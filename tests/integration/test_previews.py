"""Previews from a runner's step to the app that watches, and what of a node's previews does not get there."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from reelnet.codec import FrameValue
from reelnet.jobs import Accepted, Done, Preview, Progress, Started, Ticket
from reelnet.parameters import SAFETY
from tests.fakes.lying_node import LyingNode, capability, delivery, png, running
from tests.fakes.pool import (
    PATIENCE_S,
    InProcessEngine,
    Pool,
    PoolPlan,
    broadcaster_settings,
    followed,
    ready,
    running_broadcaster,
    running_pool,
    sse_events,
    until,
)
from tests.fakes.runner import GatedBackend

ROOT = Path(__file__).parents[2]
WATCH = {"accept": "text/event-stream"}
SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 8, "seed": 1}
SECRET = b"where it was"


@pytest.fixture
def gate() -> GatedBackend:
    """A synthetic runner whose first job stands before its sixth step."""
    return GatedBackend(step=6)


@pytest.fixture
async def pool(tmp_path: Path, gate: GatedBackend) -> AsyncIterator[Pool]:
    """One node with that runner, behind a broadcaster that passes on every preview."""
    engine = InProcessEngine(backend=lambda spec, settings: gate)
    models = [{"model": "synthetic/gated", "backend": {"synthetic": {"unit_s": 0}}}]
    plan = PoolPlan(tmp_path, [engine], models, broadcaster={"limits": {"preview_s": 0}})
    async with running_pool(plan) as running:
        yield running
        gate.open()


async def test_an_app_sees_the_picture_come(pool: Pool, gate: GatedBackend) -> None:
    """A preview arrives while the job is under way, and the result is the same as without."""
    seen: list[tuple[str, dict[str, Any]]] = []
    job = {**SMALL, "width": 512, "height": 256, "preview_steps": 2}
    async with (
        pool.http.stream("POST", "/text-to-image", json=job, headers=WATCH) as answer,
        asyncio.timeout(PATIENCE_S),
    ):
        async for name, data in followed(answer):
            seen.append((name, data))
            if name == "preview" and data["step"] == 4:
                gate.open()
    previews = [data for name, data in seen if name == "preview"]
    assert {(data["index"], data["total"], data["media_type"]) for data in previews} == {(0, 8, "image/jpeg")}
    assert {data["step"] for data in previews} <= {2, 4, 6}
    with Image.open(io.BytesIO(base64.b64decode(previews[0]["data"]))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (256, 128))
    assert seen[-1][0] == "result"
    (plain,) = await pool.outputs(await pool.job("text-to-image", job))
    assert (await pool.http.get(seen[-1][1]["images"][0]["url"])).content == plain


async def test_the_example_saves_what_it_watches(pool: Pool, gate: GatedBackend, tmp_path: Path) -> None:
    """Previews first, then the picture."""
    command = [str(ROOT / "examples/watch.py"), "boat", "--url", pool.broadcaster.url]
    options = ["--every", "5", "--steps", "10", "--to", str(tmp_path / "boat")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        first = tmp_path / "boat-0-step-005.jpg"
        await until(lambda: first.exists() or process.returncode is not None, "the first preview is saved")
        gate.open()
        output, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    for file, kind in ((first, "JPEG"), (tmp_path / "boat-0.png", "PNG")):
        with Image.open(file) as picture:
            assert picture.format == kind
    assert "step 5 of 10" in output.decode()


def _jpeg(width: int = 64, **more: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 64), "red").save(out, "JPEG", **more)
    return out.getvalue()


def _located() -> bytes:
    """A picture with a place in it."""
    exif = Image.Exif()
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    return _jpeg(exif=exif, comment=SECRET)


@contextlib.asynccontextmanager
async def _lying(home: Path, frames: list[FrameValue]) -> AsyncIterator[tuple[Any, httpx.AsyncClient, list[Ticket]]]:
    """A node that sends these frames before its output, behind a broadcaster; and the tickets that it gets."""
    tickets: list[Ticket] = []

    def script(ticket: Ticket) -> list[FrameValue]:
        tickets.append(ticket)
        end = Done({}, 0, ticket.model_digest)
        return [Accepted(0, 0, 0), Started(), *frames, Progress("denoise", 1, 1), *delivery(png()), end]

    async with contextlib.AsyncExitStack() as stack:
        offered = replace(capability(), features=(SAFETY,))
        address = await stack.enter_async_context(running(LyingNode(script, offered)))
        settings = broadcaster_settings(home, [address], limits={"preview_s": 0})
        broadcaster = await stack.enter_async_context(running_broadcaster(settings))
        await ready(broadcaster, 1)
        http = httpx.AsyncClient(base_url=broadcaster.url, timeout=PATIENCE_S)
        yield broadcaster, await stack.enter_async_context(http), tickets


@pytest.mark.parametrize(
    "preview",
    [
        pytest.param(Preview(png(), 0, 1, 8), id="png"),
        pytest.param(Preview(_jpeg(640), 0, 1, 8), id="large"),
        pytest.param(Preview(_jpeg(comment=bytes(60_000)) + bytes(10_000), 0, 1, 8), id="many-bytes"),
        pytest.param(Preview(_jpeg(), 1, 1, 8), id="of-no-output"),
    ],
)
async def test_a_nodes_preview_that_is_none_is_dropped(tmp_path: Path, preview: Preview) -> None:
    """The app hears nothing of it, and the job goes on."""
    async with _lying(tmp_path, [preview]) as (_, http, _tickets):
        answer = await http.post("/text-to-image", json={**SMALL, "preview_steps": 1}, headers=WATCH)
    names = [name for name, _ in sse_events(answer.text)]
    assert "preview" not in names
    assert names[-2:] == ["progress", "result"]


async def test_a_nodes_preview_comes_without_its_metadata(tmp_path: Path) -> None:
    """Where it was made is told to nobody."""
    assert SECRET in _located()
    async with _lying(tmp_path, [Preview(_located(), 0, 1, 8)]) as (_, http, _tickets):
        answer = await http.post("/text-to-image", json={**SMALL, "preview_steps": 1}, headers=WATCH)
    (data,) = [base64.b64decode(data["data"]) for name, data in sse_events(answer.text) if name == "preview"]
    assert SECRET not in data
    with Image.open(io.BytesIO(data)) as picture:
        assert not picture.getexif()


@pytest.mark.parametrize(
    ("followed", "params", "asked"),
    [
        (True, {}, 3),
        (False, {}, 0),
        (True, {"preview_steps": 0}, 0),
        (True, {"safety": "flag"}, 3),
        (True, {"safety": "blur"}, 0),
        (True, {"safety": "refuse"}, 0),
    ],
)
async def test_no_node_works_for_previews_that_nobody_sees(
    tmp_path: Path, followed: bool, params: dict[str, Any], asked: int
) -> None:
    """Where no events are read, or a checker comes first, the ticket asks for none: older nodes can have the job."""
    async with _lying(tmp_path, [Preview(_jpeg(), 0, 1, 8)]) as (_, http, tickets):
        job = {**SMALL, "preview_steps": 3, **params}
        answer = await http.post("/text-to-image", json=job, headers=WATCH if followed else {})
        assert answer.status_code == 200, answer.text
    assert json.loads(tickets[0].params).get("preview_steps", 0) == asked
    assert ("event: preview" in answer.text) is bool(asked)


async def test_a_parameter_out_of_bounds_is_an_error_for_everybody(tmp_path: Path) -> None:
    """Also where it would be left out."""
    async with _lying(tmp_path, []) as (_, http, tickets):
        assert (await http.post("/text-to-image", json={**SMALL, "preview_steps": -1})).status_code == 422
    assert tickets == []
