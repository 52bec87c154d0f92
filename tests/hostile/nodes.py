"""Hostile nodes: each proves its id, and then floods the broadcaster, sends it noise, and does none of its jobs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from reelnet import codec
from reelnet.codec import FrameValue, TicketFrame, WatchAnswer
from reelnet.errors import UserError
from reelnet.identity import Identity
from reelnet.jobs import Accepted, Capability, Description, Load, ModelLoad, NodeId, Progress, Started
from reelnet.proof import sign_proof
from reelnet.ticket import open_ticket, sign_description
from reelnet.v1 import orchestrator_pb2
from tests.fakes.lying_node import capability, delivery, signed_for, whole
from tests.fakes.raw_node import RawNode, running_raw
from tests.hostile.acts import Harm

NODES = 2
"""One less than the attempts that a job has: with three, the design itself lets a job fail."""
CAPABILITIES = 1000
UPDATES, UPDATE_S = 4, 0.05
"""A flood, before noise ends its watch: updates, and the seconds between two where the broadcaster reads them."""
ENDLESS = 20_000
"""Frames of an answer that would have no end."""
NOISE = b"\xff\xff\xff\xff"
WANTED = capability()
NOBODYS = replace(WANTED, model="quiet/none")


@dataclass
class HostileNode(RawNode):
    """Well-behaved, and with nothing that anybody wants, until it is `awake`; then it does harm at every turn."""

    watch: Any = None
    identity: Identity = field(default_factory=Identity.generate)
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    harm: Harm = field(default_factory=Harm)
    turn: int = 0

    async def on_watch(self, request: bytes, context: Any) -> None:
        proof = self._proof(request)
        while True:
            await context.write(self._quiet + proof)
            await self.awake.wait()
            for number in range(UPDATES):
                if not self.awake.is_set():
                    break
                self.harm.done["updates"] += 1
                await context.write(self._floods[number % 2] + proof)
                await asyncio.sleep(UPDATE_S)
            if self.awake.is_set():
                self.harm.done["noise in a watch"] += 1
                await context.write(NOISE)

    async def on_generate(self, frames: AsyncIterator[bytes], context: Any) -> None:
        first, *_ = codec.frames_from_bytes(await anext(frames), UserError)
        answers = {"noise": self._noise, "endless": self._endless, "no outputs": self._no_outputs}
        name = sorted(answers)[self.turn % len(answers)]
        self.turn += 1
        self.harm.done[f"job: {name}"] += 1
        async for message in answers[name](first):
            await context.write(message)

    @cached_property
    def _quiet(self) -> bytes:
        return self._update(NOBODYS)

    @cached_property
    def _floods(self) -> list[bytes]:
        """Two updates that differ in all but what is wanted, made once: making them is no harm."""
        return [
            self._update(WANTED, *(replace(WANTED, model=f"flood/{turn}-{i}") for i in range(CAPABILITIES - 1)))
            for turn in range(2)
        ]

    def _update(self, *capabilities: Capability) -> bytes:
        told = Description(NodeId(self.identity.id), "epoch", 1, 1, 1, capabilities)
        return codec.watch_answer_to_bytes(WatchAnswer(sign_description(self.identity, told), _free()))

    def _proof(self, request: bytes) -> bytes:
        """A proof as bytes that may follow any update: a field that comes later counts."""
        challenge = codec.watch_request_from_bytes(request).challenge
        assert challenge
        proof = codec.signed_to_message(sign_proof(self.identity, challenge))
        return orchestrator_pb2.WatchResponse(proof=proof).SerializeToString()

    async def _noise(self, first: FrameValue) -> AsyncIterator[bytes]:
        yield codec.frames_to_bytes([Accepted(0, 0, 0)])
        yield NOISE

    async def _endless(self, first: FrameValue) -> AsyncIterator[bytes]:
        yield codec.frames_to_bytes([Accepted(0, 0, 0), Started()])
        progress = codec.frames_to_bytes([Progress("denoise", 1, 2)])
        for _ in range(ENDLESS):
            yield progress

    async def _no_outputs(self, first: FrameValue) -> AsyncIterator[bytes]:
        """Signed for, of the right size and digest, and no picture."""
        assert isinstance(first, TicketFrame)
        ticket = open_ticket(first.ticket)
        for value in signed_for(self.identity, ticket, whole(ticket, *delivery(b"no picture" * 100))):
            yield codec.frames_to_bytes([value])


def _free() -> Load:
    return Load((ModelLoad(WANTED.pipeline, WANTED.model, 1, 0, 0, warm=True, wait_s=0.0),))


@dataclass
class HostileNodes:
    """All of them, which answer from before their broadcaster starts, and do harm while `at_work`."""

    nodes: list[HostileNode]
    addresses: list[str]
    servers: contextlib.AsyncExitStack

    @contextlib.asynccontextmanager
    async def at_work(self, target: str = "") -> AsyncIterator[Harm]:
        """Harm to the broadcaster that watches them, until the block ends."""
        harm = Harm()
        harm.done.update({"updates": 0, "noise in a watch": 0})
        for node in self.nodes:
            node.harm = harm
            node.awake.set()
        try:
            yield harm
        finally:
            for node in self.nodes:
                node.awake.clear()
            await self._hang_up()

    async def _hang_up(self) -> None:
        """Ends every watch at once: what was sent and not read yet would go on to be read for long."""
        await self.servers.aclose()
        for node, address in zip(self.nodes, self.addresses, strict=True):
            port = int(address.partition("#")[0].rpartition(":")[2])
            await self.servers.enter_async_context(running_raw(node, port))


@contextlib.asynccontextmanager
async def hostile_nodes(count: int = NODES) -> AsyncIterator[HostileNodes]:
    """So many, asleep. Each begins with another answer to a job."""
    nodes = [HostileNode(turn=number) for number in range(count)]
    async with contextlib.AsyncExitStack() as servers:
        targets = [await servers.enter_async_context(running_raw(node)) for node in nodes]
        yield HostileNodes(nodes, [f"{t}#{n.identity.id}" for t, n in zip(targets, nodes, strict=True)], servers)
