"""The node's side of trust: what a ticket has to be, and how an attempt survives a broken stream."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.app import RunningNode
from reelnet.client import Address, OrchestratorClient
from reelnet.codec import TicketFrame
from reelnet.errors import BusyError, ReelnetError, RefusedError, TransientError, UnsupportedError, UserError
from reelnet.identity import Identity, Signed
from reelnet.jobs import Chunk, Description, Done, Output, Progress, Started, Ticket
from reelnet.parameters import TextToImage
from reelnet.pipelines import PIPELINES
from reelnet.pricing import price
from reelnet.ticket import sign_ticket
from tests.fakes.pool import PoolPlan, node_settings, running_node, until
from tests.integration.test_cancel import SYNTHETIC, Held

PRICED = {**SYNTHETIC, "pipelines": {"text-to-image": {"price": {"mpix_step": "0.001"}}}}


@dataclass
class Desk:
    """A broadcaster's identity in front of one node, without the rest of a broadcaster."""

    node: RunningNode
    client: OrchestratorClient
    description: Description
    held: Held
    identity: Identity

    def ticket(self, **changes: Any) -> Ticket:
        """A ticket that the node takes, but for the changes."""
        (capability,) = self.description.capabilities
        pipeline = PIPELINES["text-to-image"]
        params = TextToImage(prompt="boat", width=64, height=64, num_inference_steps=6, seed=3)
        work = pipeline.work(params)
        ticket = Ticket(
            job_id="job",  # type: ignore[arg-type]
            attempt=1,
            broadcaster_id=self.identity.id,  # type: ignore[arg-type]
            node_id=self.description.node_id,
            node_epoch=self.description.epoch,
            pipeline=pipeline.name,
            schema=capability.schema,
            model=capability.model,
            model_digest=capability.model_digest,
            params=params.model_dump_json().encode(),
            inputs=(),
            work=work,
            rates=capability.rates,
            ceiling_nano=price(work, capability.rates),
            deadline_ms=now_ms() + 60_000,
            expires_ms=now_ms() + 30_000,
        )
        return dataclasses.replace(ticket, **changes)

    async def run(self, signed: Signed, resume_from: tuple[int, int] = (0, 0)) -> list[Any]:
        """Every event of an attempt, acknowledged."""
        async with self.client.generate(signed, [], 30, resume_from) as attempt:
            events = [event async for event in attempt]
            await attempt.acknowledge()
            return events


def now_ms() -> int:
    import time

    return time.time_ns() // 1_000_000


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """One node with one held runner, and a client that knows its id."""
    held = Held()
    settings = node_settings(PoolPlan(tmp_path, [held.engine], [PRICED]), 0)
    async with running_node(settings, held.engine) as node, OrchestratorClient(Address.parse(node.address)) as client:
        await until(lambda: node.node.table.slots[0].ready, "the runner is ready")
        yield Desk(node, client, await client.describe(5), held, Identity.generate())
        held.backend.let_go.set()


REFUSED: list[Any] = [
    ({"node_id": "another"}, RefusedError, "wrong_node"),
    ({"node_epoch": "an earlier start"}, TransientError, "epoch"),
    ({"expires_ms": 1}, RefusedError, "expired"),
    ({"model": "another/model"}, UnsupportedError, "model"),
    ({"model_digest": "0" * 64}, UnsupportedError, "digest"),
    ({"schema": "text-to-image/sd@99"}, UnsupportedError, "schema"),
    ({"ceiling_nano": 0}, RefusedError, "ceiling"),
    ({"params": b'{"prompt": ""}'}, UserError, "params"),
    ({"params": b"not json"}, UserError, "params"),
]


@pytest.mark.parametrize(("changes", "error", "code"), REFUSED)
async def test_a_ticket_that_does_not_fit_is_refused(
    desk: Desk, changes: dict[str, Any], error: type[ReelnetError], code: str
) -> None:
    """Each thing that a ticket states is checked, and each refusal says which one it was, by class and code."""
    with pytest.raises(error) as caught:
        await desk.run(sign_ticket(desk.identity, desk.ticket(**changes)))
    assert caught.value.code == code
    assert not desk.node.node.attempts()


@pytest.mark.parametrize("size", [0, 1000, 300_000, 5_000_000])
async def test_a_refusal_is_heard_beside_input(desk: Desk, size: int) -> None:
    """A node that is full says so, with its wait, whatever input the broadcaster has to send: it is not blamed."""
    desk.node.node.drain()
    inputs = [b"x" * size]
    for _ in range(10):
        with pytest.raises(BusyError) as caught:
            async with desk.client.generate(sign_ticket(desk.identity, desk.ticket()), inputs, 30) as attempt:
                await attempt.read()
        assert caught.value.code == "draining"


async def test_a_ticket_changed_on_its_way_is_refused(desk: Desk) -> None:
    """The signature covers the bytes as sent: one bit more, and the node refuses."""
    signed = sign_ticket(desk.identity, desk.ticket())
    forged = dataclasses.replace(signed, payload=signed.payload.replace(b"boat", b"goat"))
    with pytest.raises(RefusedError) as caught:
        await desk.run(forged)
    assert caught.value.code == "signature"


async def test_a_ticket_in_another_broadcasters_name_is_refused(desk: Desk) -> None:
    """A broadcaster signs for itself only."""
    with pytest.raises(RefusedError):
        await desk.run(sign_ticket(Identity.generate(), desk.ticket()))


async def test_a_used_ticket_is_good_for_nothing(desk: Desk) -> None:
    """Replaying a ticket runs no second job."""
    desk.held.backend.let_go.set()
    signed = sign_ticket(desk.identity, desk.ticket())
    await desk.run(signed)
    await until(lambda: not desk.node.node.attempts(), "the attempt is over")
    with pytest.raises(RefusedError) as caught:
        await desk.run(signed)
    assert caught.value.code == "closed"


async def test_a_broken_stream_is_no_cancel_for_a_ticket_that_lingers(desk: Desk) -> None:
    """The attempt goes on without its stream; the same ticket finds it again, and goes on from an output's offset."""
    signed = sign_ticket(desk.identity, desk.ticket(linger_s=30))
    async with desk.client.generate(signed, [], 30) as attempt:
        async for event in attempt:
            if isinstance(event, Started):
                break
    await desk.held.until_held()
    assert len(desk.node.node.attempts()) == 1
    desk.held.backend.let_go.set()
    whole = await collect(desk, signed, (0, 0))
    rest = await collect(desk, signed, (0, 100), acknowledge=True)
    assert rest == whole[100:]
    assert desk.held.backend.steps == [1, 2, 3, 4, 5, 6], "the job ran once"
    await until(lambda: not desk.node.node.attempts(), "nothing is kept after the acknowledgement")


async def collect(desk: Desk, signed: Signed, start: tuple[int, int], acknowledge: bool = False) -> bytes:
    """The bytes of the attempt's only output from an offset on."""
    data = b""
    async with desk.client.generate(signed, [], 30, start) as attempt:
        async for event in attempt:
            if isinstance(event, Chunk):
                data += event.data
            if isinstance(event, Output):
                size = event.size
            if isinstance(event, Done):
                assert len(data) == size - start[1]
        if acknowledge:
            await attempt.acknowledge()
    return data


async def test_a_node_is_never_silent(tmp_path: Path) -> None:
    """While a step takes long the node repeats where the job is, so that silence means that it is gone."""
    held = Held()
    the_plan = PoolPlan(tmp_path, [held.engine], [PRICED], node={"limits": {"heartbeat_s": 0.1}})
    settings = node_settings(the_plan, 0)
    async with running_node(settings, held.engine) as node, OrchestratorClient(Address.parse(node.address)) as client:
        await until(lambda: node.node.table.slots[0].ready, "the runner is ready")
        desk = Desk(node, client, await client.describe(5), held, Identity.generate())
        async with client.generate(sign_ticket(desk.identity, desk.ticket()), [], 30) as attempt:
            said = []
            async for event in attempt:
                said.append(event)
                if said.count(event) == 3:
                    break
            assert isinstance(said[-1], Progress)
            assert said[-1].step == 1
        held.backend.let_go.set()


async def test_a_broken_stream_cancels_a_ticket_that_does_not_linger(desk: Desk) -> None:
    """Without linger the attempt ends with its stream, and the slot is free."""
    signed = sign_ticket(desk.identity, desk.ticket())
    async with desk.client.generate(signed, [], 30) as attempt:
        async for event in attempt:
            if isinstance(event, Started):
                break
    await desk.held.until_held()
    (worker,) = desk.held.engine.workers.values()
    activity = worker.current
    assert activity is not None
    await until(lambda: activity.canceled.is_set(), "the runner sees the cancel")
    desk.held.backend.let_go.set()
    await until(lambda: not desk.node.node.attempts(), "the attempt ends")
    assert desk.held.backend.steps == [1, 2]
    assert desk.node.node.table.slots[0].holder is None


async def test_a_cancel_frame_ends_a_lingering_attempt_too(desk: Desk) -> None:
    """`Cancel` is a frame of its own: it stops what would outlive its stream."""
    signed = sign_ticket(desk.identity, desk.ticket(linger_s=30))
    async with desk.client.generate(signed, [], 30) as attempt:
        async for event in attempt:
            if isinstance(event, Started):
                break
        await desk.held.until_held()
        canceling = asyncio.create_task(attempt.cancel("not wanted any more"))
        (worker,) = desk.held.engine.workers.values()
        activity = worker.current
        assert activity is not None
        await until(lambda: activity.canceled.is_set(), "the runner sees the cancel")
        desk.held.backend.let_go.set()
        await canceling
    await until(lambda: desk.node.node.table.slots[0].holder is None, "the slot is free")
    assert desk.held.backend.steps == [1, 2]


async def test_the_address_names_who_must_answer(desk: Desk) -> None:
    """A node that answers under another id than its address names is refused."""
    address = Address(desk.client.address.target, Identity.generate().id)
    async with OrchestratorClient(address) as stranger:
        with pytest.raises(RefusedError):
            await stranger.describe(5)


async def test_a_wrong_estimate_closes_a_node_for_a_while_only(desk: Desk) -> None:
    """An idle node takes a job whatever it expects; a busy one refuses its kind, and takes one of it after a while."""
    node = desk.node.node
    limits = node.settings.limits.model_copy(update={"retry_refused_s": 0.2})
    node.apply(node.settings.model_copy(update={"limits": limits}))
    for _ in range(3):
        node._observe(desk.ticket(), node.table.slots[0], 3600.0)

    codes: list[str] = []

    def taken(job_id: str) -> bool:
        try:
            node.open(TicketFrame(sign_ticket(desk.identity, desk.ticket(job_id=job_id))))
        except BusyError as refusal:
            codes.append(refusal.code)
            return False
        return True

    assert taken("on an idle node")
    await desk.held.until_held()
    assert not taken("at once")
    await until(lambda: taken("later"), "a job of the kind is tried again")
    assert not taken("after it")
    assert set(codes) == {"deadline_unreachable"}
    for attempt in node.attempts():  # nobody follows them
        attempt.abandon()
