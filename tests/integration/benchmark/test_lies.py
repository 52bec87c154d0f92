"""A node that delivers something else is scored 0 with the reason, asked directly and through a broadcaster."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from benchmark.local_pool import PoolPlan
from benchmark.scenario import Request
from benchmark.targets import Aim
from reelnet.client import Address
from reelnet.jobs import Ticket
from reelnet.pipelines import PIPELINES, Size
from tests.fakes.bench import measured
from tests.fakes.lying_node import LyingNode, capability, delivery, png, running, whole
from tests.fakes.media import encoded
from tests.fakes.pool import (
    InProcessEngine,
    broadcaster_settings,
    node_settings,
    ready,
    running_broadcaster,
    running_node,
)
from tests.fakes.pool import PoolPlan as FakePool

SIZE = Size(128, 96)
FRAMES = 6


def texture(key: int) -> Image.Image:
    """Another picture for each key."""
    coarse = np.random.default_rng(key).integers(0, 256, (24, 32, 3), np.uint8)
    return Image.fromarray(coarse).resize((SIZE.width, SIZE.height), Image.Resampling.BILINEAR)


def mp4(frames: list[Image.Image]) -> bytes:
    """A clip of these frames, 6 a second."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=6, options={"threads": "1", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = SIZE.width, SIZE.height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return out.getvalue()


@functools.cache
def moving(key: int, frames: int = FRAMES) -> bytes:
    """A good clip."""
    return mp4([texture(key * 100 + index) for index in range(frames)])


def seed_of(ticket: Ticket) -> int:
    params = PIPELINES[ticket.pipeline].parse_json(ticket.params)
    return params.seed or 0


def picture(data: bytes, media_type: str = "image/png") -> list[Any]:
    return delivery(data, media_type)


def jpeg(key: int, quality: int) -> bytes:
    return encoded(texture(key), "JPEG", quality=quality)


def coded_anew(seed: int) -> bytes:
    """One picture for ever, with the traces of another quality each time."""
    with Image.open(io.BytesIO(jpeg(1, 60 + seed % 30))) as traced:
        return encoded(traced, "PNG")


def sent_back(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as given:
        return mp4([given.convert("RGB")] * FRAMES)


def padded(key: int) -> bytes:
    """Half of the frames, each of them twice or more."""
    return mp4([texture(key * 100)] * 4 + [texture(key * 100 + 1)] * 2)


TEXT, VIDEO = "text-to-image", "image-to-video"
LIES: list[Any] = [
    pytest.param(
        TEXT,
        lambda t: whole(t, *picture(encoded(Image.new("RGB", (128, 96), "navy"), "PNG"))),
        "constant",
        id="constant",
    ),
    pytest.param(TEXT, lambda t: whole(t, *picture(png(128, 96))), "replayed", id="the-same-bytes"),
    pytest.param(TEXT, lambda t: whole(t, *picture(coded_anew(seed_of(t)))), "replayed", id="coded-anew"),
    pytest.param(TEXT, lambda t: whole(t, *picture(jpeg(1, 90), "image/jpeg")), "media_type", id="another-format"),
    pytest.param(TEXT, lambda t: whole(t, *picture(png(64, 64))), "size", id="too-small"),
    pytest.param(
        VIDEO, lambda t: whole(t, *delivery(moving(seed_of(t) % 1000, 3), "video/mp4")), "frames", id="fewer-frames"
    ),
    pytest.param(
        VIDEO, lambda t: whole(t, *delivery(padded(seed_of(t) % 1000), "video/mp4")), "repeated_frames", id="padded"
    ),
    pytest.param(VIDEO, lambda t: whole(t, *delivery(moving(7), "video/mp4")), "replayed", id="the-same-clip"),
    pytest.param(
        VIDEO,
        lambda t: whole(t, *delivery(mp4([texture(seed_of(t) % 1000)] * FRAMES), "video/mp4")),
        "still",
        id="still",
    ),
    pytest.param(VIDEO, lambda t, data: whole(t, *delivery(sent_back(data), "video/mp4")), "input", id="the-input"),
]


def request(pipeline: str) -> Request:
    frames = FRAMES if pipeline == VIDEO else None
    return Request(PIPELINES[pipeline], 2, SIZE, frames, runs=3, warmup=1)


def aim(home: Path, **where: Any) -> Aim:
    return Aim(PoolPlan(home=home, models=home), **where)


@dataclass
class Liar:
    """A running liar."""

    address: str
    node: LyingNode


@contextlib.asynccontextmanager
async def liar(pipeline: str, script: Callable[..., Any], reason: str) -> AsyncIterator[Liar]:
    node = LyingNode(script, capability(pipeline=pipeline), takes_input=reason == "input")
    async with running(node) as address:
        yield Liar(address, node)


@pytest.mark.parametrize(("pipeline", "script", "reason"), LIES)
async def test_a_liar_is_scored_0_with_the_reason(tmp_path: Path, pipeline: str, script: Any, reason: str) -> None:
    """Asked directly, with the reason among the findings and in the score."""
    async with liar(pipeline, script, reason) as lying:
        assessed = await measured(aim(tmp_path, nodes=(Address.parse(lying.address),)), request(pipeline), tmp_path)
    (result,) = assessed.nodes
    assert list(result.figures.wrong) == [reason]
    assert result.figures.wrong[reason] >= 3
    assert (result.score.total, result.score.correctness) == (0.0, 0.0)
    assert result.score.reason
    assert not assessed.good


@pytest.mark.parametrize(("pipeline", "script", "reason"), [LIES[place] for place in (0, 1, 4, 8)])
async def test_a_broadcaster_hides_no_liar(tmp_path: Path, pipeline: str, script: Any, reason: str) -> None:
    """What the broadcaster refuses fails with the reason; what it serves is found here, and the node is named."""
    async with liar(pipeline, script, reason) as lying:
        settings = broadcaster_settings(tmp_path, [lying.address])
        async with running_broadcaster(settings) as broadcaster:
            await ready(broadcaster, 1)
            assessed = await measured(aim(tmp_path, url=broadcaster.url), request(pipeline), tmp_path)
    assert assessed.pool is not None
    assert (assessed.pool.score.total, list(assessed.pool.figures.wrong)) == (0.0, [reason])
    if reason not in ("frames", "size"):  # a job that failed names no node
        (named,) = assessed.nodes
        assert (named.figures.name, named.score.total) == (lying.node.identity.id, 0.0)


@pytest.mark.parametrize("pipeline", [TEXT, VIDEO])
async def test_the_honest_node_beside_a_liar_keeps_its_score(tmp_path: Path, pipeline: str) -> None:
    """Measured side by side with the same jobs; the liar is faster and last."""
    replay = moving(7) if pipeline == VIDEO else encoded(texture(7), "PNG")
    media_type = "video/mp4" if pipeline == VIDEO else "image/png"
    script = lambda t: whole(t, *delivery(replay, media_type))  # noqa: E731
    honest = node_settings(FakePool(tmp_path, []), 0)
    async with running_node(honest, InProcessEngine()) as node, liar(pipeline, script, "replayed") as lying:
        addresses = tuple(Address.parse(address) for address in (node.address, lying.address))
        assessed = await measured(aim(tmp_path, nodes=addresses), request(pipeline), tmp_path)
    scores = {result.figures.name: result.score for result in assessed.nodes}
    assert scores[lying.node.identity.id].total == 0
    assert scores[addresses[0].node_id or ""].total > 50
    assert scores[addresses[0].node_id or ""].reason == ""


def test_every_lie_is_another() -> None:
    """The list has each kind that is looked for."""
    assert {case.values[2] for case in LIES} >= {"constant", "input", "frames", "replayed", "still", "repeated_frames"}
