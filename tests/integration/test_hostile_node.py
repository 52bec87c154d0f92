"""A node that sends anything at all is one bad node: the broadcaster goes on, and jobs are done elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from broadcaster.app import RunningBroadcaster
from reelnet import codec
from reelnet.codec import WatchAnswer
from reelnet.identity import Identity, Signed
from reelnet.jobs import Accepted, Load, Progress, Started, Ticket
from tests.fakes.lying_node import LyingNode, capability, delivery, png, running, whole
from tests.fakes.pool import PATIENCE_S, broadcaster_settings, running_broadcaster, until
from tests.fakes.raw_node import RawNode, introduction, running_raw

SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
BAD = Identity.generate()
NOISE = b"\xff\xff\xff\xff"
MB = 2**20


def honest(ticket: Ticket) -> list[Any]:
    return whole(ticket, *delivery(png()))


@contextlib.asynccontextmanager
async def beside_an_honest_node(
    home: Path, bad: RawNode, **broadcaster: Any
) -> AsyncIterator[tuple[RunningBroadcaster, httpx.AsyncClient, LyingNode]]:
    """A broadcaster with the bad node and an honest one, once the honest one is up."""
    node = LyingNode(honest, capability())
    async with running(node) as address, running_raw(bad) as bad_address:
        settings = broadcaster_settings(home, [f"{bad_address}#{BAD.id}", address], **broadcaster)
        async with (
            running_broadcaster(settings) as pool,
            httpx.AsyncClient(base_url=pool.url, timeout=PATIENCE_S) as http,
        ):
            await until(lambda: pool.registry.nodes()[1].up, "the honest node is up")
            yield pool, http, node


WATCHES: list[Any] = [
    pytest.param(lambda request: [NOISE], id="noise"),
    pytest.param(lambda request: [b""], id="nothing"),
    pytest.param(lambda request: [introduction(BAD, capability(), request), NOISE], id="noise-after-a-proof"),
    pytest.param(lambda request: [introduction(BAD, capability(), request)[:-1]], id="cut-off"),
    pytest.param(lambda request: [introduction(BAD, capability(), request) * 2] * 500, id="flood"),
    pytest.param(
        lambda request: [codec.watch_answer_to_bytes(WatchAnswer(Signed(NOISE, NOISE, NOISE), Load()))], id="no-key"
    ),
]


@pytest.mark.parametrize("watch", WATCHES)
async def test_no_answer_to_a_watch_ends_the_broadcaster(tmp_path: Path, watch: Callable[[bytes], list[bytes]]) -> None:
    """Bytes that are no update: the node is down with the reason, asked again later, and jobs go on."""
    bad = RawNode(watch, generate=lambda ticket: [NOISE])
    async with beside_an_honest_node(tmp_path, bad) as (pool, http, _):
        await until(lambda: bad.watched >= 1, "the bad node was asked")
        for _ in range(3):
            answer = await http.post("/text-to-image", json=SMALL)
            assert answer.status_code == 200, answer.text
        listed = (await http.get("/models")).json()
        assert len(listed["nodes"]) == 2
        assert pool.registry.nodes()[1].up


async def test_a_fault_of_ours_over_one_node_costs_that_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody foresaw in one node's watch: it is logged, and the other watches go on."""
    from broadcaster.registry import Registry

    take = Registry._take

    def fails_for_the_bad_one(self: Registry, record: Any, update: Any) -> None:
        if record.address.node_id == BAD.id:
            raise ZeroDivisionError("nobody foresaw this")
        take(self, record, update)

    monkeypatch.setattr(Registry, "_take", fails_for_the_bad_one)
    bad = RawNode(lambda request: [introduction(BAD, capability(), request)])
    async with beside_an_honest_node(tmp_path, bad) as (pool, http, _):
        await until(lambda: "fault of this broadcaster" in pool.registry.nodes()[0].reason, "the fault is told")
        answer = await http.post("/text-to-image", json=SMALL)
        assert answer.status_code == 200, answer.text


def _frames(*values: Any) -> bytes:
    return codec.frames_to_bytes(values)


def _endless(*values: Any) -> Iterator[bytes]:
    while True:
        yield _frames(*values)


STREAMS: list[Any] = [
    pytest.param(lambda _: [NOISE], "protocol", id="noise"),
    pytest.param(lambda _: [_frames(Accepted(0, 0, 0)), NOISE], "protocol", id="noise-after-accepted"),
    pytest.param(lambda _: [_frames(Accepted(0, 0, 0)), b"\x3a\x05\x0a\x03"], "protocol", id="cut-off"),
    pytest.param(lambda _: _endless(), "flood", id="endless-nothing"),
    pytest.param(
        lambda _: (_frames(*x) for x in ((Accepted(0, 0, 0),), (Started(),), *[(Progress("a", 1, 2),)] * 10_000)),
        "flood",
        id="flood-of-progress",
    ),
]


@pytest.mark.parametrize(("stream", "code"), STREAMS)
async def test_no_answer_to_a_job_hangs_it(
    tmp_path: Path, stream: Callable[[bytes], Iterator[bytes]], code: str
) -> None:
    """Bytes that are no frame, or too many: the attempt fails at once, long before silence, and another node has it."""
    bad = RawNode(lambda request: [introduction(BAD, capability(), request)], generate=stream)
    async with beside_an_honest_node(tmp_path, bad, limits={"silence_s": 1000.0}) as (pool, http, node):
        await until(lambda: pool.registry.nodes()[0].up, "the bad node is up")
        async with asyncio.timeout(30):
            while not bad.frames:
                answer = await http.post("/text-to-image", json=SMALL)
                assert answer.status_code == 200, answer.text
                assert answer.json()["job"]["node"] == node.identity.id
        assert pool.scores.reputation(BAD.id) < 1
