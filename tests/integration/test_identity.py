"""An id in an address proves who answers: what somebody else records, repeats or makes up is no proof."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from broadcaster import registry
from broadcaster.app import RunningBroadcaster
from reelnet.client import Address, OrchestratorClient
from reelnet.errors import RefusedError
from reelnet.identity import Identity
from reelnet.jobs import Done, Output, Ticket
from reelnet.proof import new_challenge
from reelnet.rpc import RpcLimits
from reelnet.ticket import sign_receipt
from tests.fakes.lying_node import LyingNode, capability, delivery, png, running, whole
from tests.fakes.pool import (
    PATIENCE_S,
    InProcessEngine,
    PoolPlan,
    broadcaster_settings,
    node_settings,
    ready,
    running_broadcaster,
    running_node,
    until,
)
from tests.fakes.raw_node import RawNode, introduction, running_raw

SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
NODE, STRANGER = Identity.generate(), Identity.generate()


def honest(ticket: Ticket) -> list[Any]:
    return whole(ticket, *delivery(png()))


@contextlib.asynccontextmanager
async def broadcaster_of(home: Path, *addresses: str) -> AsyncIterator[tuple[RunningBroadcaster, httpx.AsyncClient]]:
    """A broadcaster with these nodes, whether they answer or not."""
    settings = broadcaster_settings(home, list(addresses), limits={"silence_s": 5.0})
    async with (
        running_broadcaster(settings) as broadcaster,
        httpx.AsyncClient(base_url=broadcaster.url, timeout=PATIENCE_S) as http,
    ):
        yield broadcaster, http


def recorded(answer: bytes) -> RawNode:
    """An impostor that repeats what the honest node once answered."""
    return RawNode(lambda request: [answer])


async def test_a_recorded_answer_proves_nothing(tmp_path: Path) -> None:
    """An impostor at the honest node's address repeats its signed description: it is not up, and gets no ticket."""
    anybody = introduction(NODE, capability(), b"")
    impostor = recorded(anybody)
    async with running_raw(impostor) as target, broadcaster_of(tmp_path, f"{target}#{NODE.id}") as (broadcaster, http):
        (record,) = broadcaster.registry.nodes()
        await until(lambda: "prove" in record.reason, "the impostor is found out")
        answer = await http.post("/text-to-image", json=SMALL)
        assert answer.status_code == 503, answer.text
        assert not record.up
        assert impostor.frames == [], "it has seen no prompt"


async def test_the_proof_of_another_call_proves_nothing(tmp_path: Path) -> None:
    """A whole answer, proof and all, that was recorded from a call of the same broadcaster."""
    seen: list[bytes] = []

    def record_one(request: bytes) -> list[bytes]:
        seen.append(introduction(NODE, capability(), request))
        return seen[:1]

    impostor = RawNode(record_one)
    async with running_raw(impostor) as target:
        address = Address.parse(f"{target}#{NODE.id}")
        async with OrchestratorClient(address, audience="me") as client:
            watch = client.watch()
            assert (await anext(watch)).description is not None
            await watch.aclose()
            again = client.watch()
            with pytest.raises(RefusedError, match="another challenge"):
                await anext(again)


async def test_a_replay_elsewhere_takes_nothing_from_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded description behind an address without an id: the node itself stays up, and does the jobs."""
    monkeypatch.setattr(registry, "RECONNECT_LONGEST_S", 0.05)
    node = LyingNode(honest, capability(), identity=NODE)
    impostor = recorded(introduction(NODE, capability(), b""))
    async with (
        running(node) as address,
        running_raw(impostor) as elsewhere,
        broadcaster_of(tmp_path, elsewhere, address) as (broadcaster, http),
    ):
        await until(lambda: impostor.watched >= 2, "the impostor was asked twice")
        await ready(broadcaster, 1)
        assert [record.up for record in broadcaster.registry.nodes()] == [False, True]
        answer = await http.post("/text-to-image", json=SMALL)
        assert answer.status_code == 200, answer.text


async def test_the_address_that_names_an_id_has_it(tmp_path: Path) -> None:
    """One node at two addresses, first the one without its id: the other one takes its place when it answers."""
    node = LyingNode(honest, capability(), identity=NODE)
    async with running(node) as pinned, running(node) as second:
        bare = second.partition("#")[0]
        async with broadcaster_of(tmp_path, bare, pinned) as (broadcaster, _):
            first, named = broadcaster.registry.nodes()
            await until(lambda: named.up and not first.up, "the named address has the node")
            assert broadcaster.registry.record(NODE.id) is named


async def test_clocks_that_differ_are_told_to_the_operator(tmp_path: Path) -> None:
    """A node whose clock is an hour ahead says so, and what to do; that is what the pool's list shows."""
    engine = InProcessEngine()
    async with (
        running_node(node_settings(PoolPlan(tmp_path, [engine]), 0), engine) as node,
        OrchestratorClient(Address.parse(node.address), RpcLimits(), "me") as client,
    ):
        slow = replace(new_challenge("me", 300), expires_ms=int((time.time() - 3300) * 1000))
        client._challenge = lambda: slow  # type: ignore[method-assign]
        for call in (client.describe(5), anext(client.watch())):
            with pytest.raises(RefusedError, match=r"ended 33\d\d s ago; set both machines' clocks \(NTP\)"):
                await call


RECEIPTS: list[Any] = [
    pytest.param(lambda t, done: replace(done, receipt=None), id="none"),
    pytest.param(lambda t, done: replace(done, receipt=sign_receipt(STRANGER, t, ["a" * 64], 0)), id="by-a-stranger"),
    pytest.param(lambda t, done: replace(done, receipt=sign_receipt(NODE, t, ["a" * 64], 0)), id="of-other-outputs"),
    pytest.param(lambda t, done: replace(done, receipt=sign_receipt(NODE, t, [], 0)), id="of-no-output"),
    pytest.param(
        lambda t, done: replace(done, receipt=sign_receipt(NODE, replace(t, attempt=9), _digests(t), 0)),
        id="of-another-attempt",
    ),
    pytest.param(lambda t, done: replace(done, receipt=sign_receipt(NODE, t, _digests(t), 7)), id="at-another-price"),
]


def _digests(ticket: Ticket) -> list[str]:
    return [value.sha256 for value in honest(ticket) if isinstance(value, Output)]


async def test_what_a_node_has_not_signed_it_has_not_delivered(tmp_path: Path) -> None:
    """No receipt, or one over something else: the attempt is the node's failure, and nothing of it is served."""
    left = [(case.id, *case.values) for case in RECEIPTS]

    def forged(ticket: Ticket) -> list[Any]:
        *frames, done = honest(ticket)
        assert isinstance(done, Done)
        return [*frames, left[0][1](ticket, done)]

    node = LyingNode(forged, capability(), identity=NODE, signs=False)
    async with running(node) as address, broadcaster_of(tmp_path, address) as (broadcaster, http):
        await ready(broadcaster, 1)
        while left:
            before = broadcaster.scores.reputation(NODE.id)
            answer = await http.post("/text-to-image", json=SMALL)
            assert answer.status_code == 500, (left[0][0], answer.text)
            assert (answer.json()["error"]["class"], answer.json()["error"]["code"]) == ("node", "receipt"), left[0][0]
            assert broadcaster.scores.reputation(NODE.id) < before
            left.pop(0)
