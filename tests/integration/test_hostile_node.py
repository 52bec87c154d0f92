"""A node that sends anything at all is one bad node: the broadcaster goes on, and jobs are done elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from broadcaster import registry
from broadcaster.app import RunningBroadcaster
from broadcaster.registry import short
from reelnet import codec
from reelnet.codec import WatchAnswer
from reelnet.identity import Identity, Signed
from reelnet.jobs import Accepted, Load, Progress, Started, Ticket
from tests.fakes.lying_node import LyingNode, capability, delivery, png, running, whole
from tests.fakes.pool import PATIENCE_S, broadcaster_settings, running_broadcaster, until
from tests.fakes.raw_node import RawNode, introduction, running_raw

SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
NOISE = b"\xff\xff\xff\xff"


def honest(ticket: Ticket) -> list[Any]:
    return whole(ticket, *delivery(png()))


Watch = Callable[[Identity, bytes], list[bytes]]


def introduced(identity: Identity, request: bytes) -> list[bytes]:
    """What a node says that is good so far."""
    return [introduction(identity, capability(), request)]


@contextlib.asynccontextmanager
async def beside_an_honest_node(
    home: Path, bad: Mapping[Identity, RawNode], **broadcaster: Any
) -> AsyncIterator[tuple[RunningBroadcaster, httpx.AsyncClient, LyingNode]]:
    """A broadcaster with the bad nodes and an honest one, once the honest one is up."""
    node = LyingNode(honest, capability())
    async with contextlib.AsyncExitStack() as stack:
        addresses = [f"{await stack.enter_async_context(running_raw(raw))}#{own.id}" for own, raw in bad.items()]
        addresses.append(await stack.enter_async_context(running(node)))
        settings = broadcaster_settings(home, addresses, **broadcaster)
        pool = await stack.enter_async_context(running_broadcaster(settings))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=pool.url, timeout=PATIENCE_S))
        await until(lambda: pool.registry.nodes()[-1].up, "the honest node is up")
        yield pool, http, node


WATCHES: dict[str, Watch] = {
    "noise": lambda own, request: [NOISE],
    "nothing": lambda own, request: [b""],
    "noise after a proof": lambda own, request: [*introduced(own, request), NOISE],
    "cut off": lambda own, request: [introduced(own, request)[0][:-1]],
    "flood": lambda own, request: [introduced(own, request)[0] * 2] * 500,
    "no key": lambda own, request: [codec.watch_answer_to_bytes(WatchAnswer(Signed(NOISE, NOISE, NOISE), Load()))],
}


async def test_no_answer_to_a_watch_ends_the_broadcaster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no update: the nodes are asked again later, and jobs go on."""
    monkeypatch.setattr(registry, "RECONNECT_LONGEST_S", 0.05)
    bad = {
        (own := Identity.generate()): RawNode(partial(watch, own), generate=lambda ticket: [NOISE])
        for watch in WATCHES.values()
    }
    async with beside_an_honest_node(tmp_path, bad, limits={"attempts": 20}) as (pool, http, _):
        for name, raw in zip(WATCHES, bad.values(), strict=True):
            await until(lambda raw=raw: raw.watched >= (1 if name == "flood" else 2), f"{name} was asked again")  # noqa: B023
        for _ in range(3):
            answer = await http.post("/text-to-image", json=SMALL)
            assert answer.status_code == 200, answer.text
        listed = (await http.get("/models")).json()
        assert len(listed["nodes"]) == len(bad) + 1
        assert pool.registry.nodes()[-1].up


async def test_a_fault_of_ours_over_one_node_costs_that_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody foresaw in one node's watch: it is logged, and the other watches go on."""
    from broadcaster.registry import Registry

    take, own = Registry._take, Identity.generate()

    def fails_for_the_bad_one(self: Registry, record: Any, update: Any) -> None:
        if record.address.node_id == own.id:
            raise ZeroDivisionError("nobody foresaw this")
        take(self, record, update)

    monkeypatch.setattr(Registry, "_take", fails_for_the_bad_one)
    async with beside_an_honest_node(tmp_path, {own: RawNode(partial(introduced, own))}) as (pool, http, _):
        await until(lambda: "fault of this broadcaster" in pool.registry.nodes()[0].reason, "the fault is told")
        answer = await http.post("/text-to-image", json=SMALL)
        assert answer.status_code == 200, answer.text


def _frames(*values: Any) -> bytes:
    return codec.frames_to_bytes(values)


def _endless(*values: Any) -> Iterator[bytes]:
    while True:
        yield _frames(*values)


Stream = Callable[[bytes], Iterable[bytes]]
PROGRESS = ((Accepted(0, 0, 0),), (Started(),), *[(Progress("a", 1, 2),)] * 10_000)
STREAMS: dict[str, tuple[Stream, str]] = {
    "noise": (lambda _: [NOISE], "protocol"),
    "noise after accepted": (lambda _: [_frames(Accepted(0, 0, 0)), NOISE], "protocol"),
    "cut off": (lambda _: [_frames(Accepted(0, 0, 0)), b"\x3a\x05\x0a\x03"], "protocol"),
    "endless nothing": (lambda _: _endless(), "flood"),
    "flood of progress": (lambda _: (_frames(*values) for values in PROGRESS), "flood"),
}


async def test_no_answer_to_a_job_hangs_it(tmp_path: Path) -> None:
    """Bytes that are no frame, or too many: the attempt fails at once, long before silence, and another node has it."""
    own = {name: Identity.generate() for name in STREAMS}
    bad = {own[name]: RawNode(partial(introduced, own[name]), stream) for name, (stream, _) in STREAMS.items()}
    limits = {"silence_s": 1000.0, "attempts": 20}
    with capture_logs() as logs:
        async with beside_an_honest_node(tmp_path, bad, limits=limits) as (pool, http, node), asyncio.timeout(60):
            await until(lambda: all(record.up for record in pool.registry.nodes()), "every node is up")
            while not all(raw.frames for raw in bad.values()):
                answer = await http.post("/text-to-image", json=SMALL)
                assert answer.status_code == 200, answer.text
                assert answer.json()["job"]["node"] == node.identity.id
    found = {entry["node"]: entry["code"] for entry in logs if entry["event"] == "attempt failed"}
    assert {name: found[short(own[name].id)] for name in STREAMS} == {n: code for n, (_, code) in STREAMS.items()}
    assert all(pool.scores.reputation(identity.id) < 1 for identity in own.values())
