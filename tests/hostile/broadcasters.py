"""A hostile broadcaster: floods of calls on one connection, noise, tickets that lie, tickets canceled at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from broadcaster.job import new_job_id
from reelnet import codec
from reelnet.client import Address, OrchestratorClient
from reelnet.codec import TicketFrame
from reelnet.identity import Identity
from reelnet.jobs import BroadcasterId, Capability, Description, JobId, NodeId, Ticket
from reelnet.pipelines import PIPELINES, Work
from reelnet.pricing import Rates
from reelnet.rpc import SERVICE
from reelnet.ticket import TICKET_CONTEXT
from tests.hostile.acts import Act, Harm, doing

FLOOD = 60
"""Calls of a flood: more than one connection may have of each kind."""
HELD_S = 0.1
PAUSE_S = 0.3
CALL_S = 5.0
NOISE = (b"\xff" * 4, b"\x0a\xff\xff\xff\xff\x7f", b"[" * 1000, b"\x00" * 65_536)
METHODS = ("Describe", "Probe", "Generate")
SMALL = {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1}
Lie = Callable[[Ticket], Ticket]
LIES: tuple[Lie, ...] = (
    lambda t: replace(t, node_id=NodeId(Identity.generate().id)),
    lambda t: replace(t, broadcaster_id=BroadcasterId(Identity.generate().id)),
    lambda t: replace(t, node_epoch="another"),
    lambda t: replace(t, model="synthetic/none"),
    lambda t: replace(t, model_digest="f" * 64),
    lambda t: replace(t, schema="text-to-image/sd@99"),
    lambda t: replace(t, params=b'{"a":' * 20_000),
    lambda t: replace(t, params=b'{"prompt":"' + b"x" * 100_000 + b'"}'),
    lambda t: replace(t, work=Work(2**62, 2**62)),
    lambda t: replace(t, rates=Rates(2**60, 2**60, 2**60, 2**60)),
    lambda t: replace(t, expires_ms=1),
    lambda t: replace(t, deadline_ms=2**62, expires_ms=2**62, linger_s=2**31 - 1),
)


@dataclass
class HostileBroadcaster:
    """One connection to a node, with an identity of its own and what the node says of itself."""

    channel: grpc.aio.Channel
    node: Description
    identity: Identity = field(default_factory=Identity.generate)
    turns: Any = field(default_factory=itertools.count)

    def acts(self) -> dict[str, Act]:
        """All that it does."""
        return {
            "watches": Act(self.watches, PAUSE_S),
            "unopened calls": Act(self.unopened, PAUSE_S),
            "noise": Act(self.noise, 0.05),
            "lies": Act(self.lie, 0.02),
            "cancels": Act(self.cancel, 0.05),
        }

    async def watches(self) -> None:
        """A flood of watches, held for a moment."""
        watch = self.channel.unary_stream(f"/{SERVICE}/Watch")
        await _held([watch(b"", timeout=CALL_S) for _ in range(FLOOD)])

    async def unopened(self) -> None:
        """A flood of jobs' calls that never send their ticket."""
        generate = self.channel.stream_stream(f"/{SERVICE}/Generate")
        await _held([generate(timeout=CALL_S) for _ in range(FLOOD)])

    async def noise(self) -> None:
        """Bytes that are no message."""
        number = next(self.turns)
        method, message = METHODS[number % len(METHODS)], NOISE[number % len(NOISE)]
        if method == "Generate":
            await self._said(message)
        else:
            await self.channel.unary_unary(f"/{SERVICE}/{method}")(message, timeout=CALL_S)

    async def lie(self) -> None:
        """A well-signed ticket of which one thing is not so."""
        await self._said(self._first(LIES[next(self.turns) % len(LIES)](self._ticket())))

    async def cancel(self) -> None:
        """A ticket that is good, and left as soon as it is accepted."""
        call: Any = self.channel.stream_stream(f"/{SERVICE}/Generate")(timeout=CALL_S)
        try:
            await call.write(self._first(self._ticket()))
            await call.read()
        finally:
            call.cancel()

    async def _said(self, message: bytes) -> None:
        call: Any = self.channel.stream_stream(f"/{SERVICE}/Generate")(timeout=CALL_S)
        await call.write(message)
        await call.done_writing()
        await call.code()

    def _first(self, ticket: Ticket) -> bytes:
        signed = self.identity.sign(TICKET_CONTEXT, codec.ticket_to_bytes(ticket))
        return codec.frames_to_bytes([TicketFrame(signed, batches=True)])

    def _ticket(self) -> Ticket:
        c, soon = self._capability(), time.time_ns() // 1_000_000 + 30_000
        pipeline = PIPELINES[c.pipeline]
        params = pipeline.parse(SMALL)
        return Ticket(
            JobId(new_job_id()), 1, BroadcasterId(self.identity.id), self.node.node_id, self.node.epoch, c.pipeline,
            c.schema, c.model, c.model_digest, params.model_dump_json().encode(), (), pipeline.work(params), c.rates,
            10**12, soon, soon,
        )  # fmt: skip

    def _capability(self) -> Capability:
        return next(c for c in self.node.capabilities if c.pipeline == "text-to-image")


async def _held(calls: list[Any]) -> None:
    try:
        await asyncio.sleep(HELD_S)
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*(call.code() for call in calls))


@contextlib.asynccontextmanager
async def hostile_broadcaster(target: str) -> AsyncIterator[Harm]:
    """Harm to the node at `host:port#id`, until the block ends."""
    address = Address.parse(target)
    async with OrchestratorClient(address) as client:
        described = await client.describe(CALL_S)
    async with (
        grpc.aio.insecure_channel(address.target) as channel,
        doing(HostileBroadcaster(channel, described).acts()) as harm,
    ):
        yield harm
