"""A node that signs what it says and delivers something else."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from PIL import Image

from reelnet import codec
from reelnet.codec import FrameValue, InputChunk, TicketFrame
from reelnet.identity import Identity
from reelnet.jobs import (
    Accepted,
    Capability,
    Chunk,
    Description,
    Done,
    Load,
    ModelLoad,
    NodeId,
    Output,
    Started,
    Ticket,
)
from reelnet.pipelines import PIPELINES
from reelnet.pricing import Rates
from reelnet.ticket import open_ticket, sign_description
from reelnet.v1 import orchestrator_pb2 as pb
from reelnet.v1.orchestrator_pb2_grpc import OrchestratorServiceServicer, add_OrchestratorServiceServicer_to_server

Script = Callable[[Ticket], list[FrameValue]]
InputScript = Callable[[Ticket, bytes], list[FrameValue]]
"""A script that also gets the input's bytes: up to 1 MiB comes without being asked for."""


@dataclass
class LyingNode(OrchestratorServiceServicer):
    """Advertises a capability at top speed; `script` makes the frames that it sends for a ticket."""

    script: Script | InputScript
    capability: Capability
    identity: Identity = field(default_factory=Identity.generate)
    asked: int = 0
    takes_input: bool = False

    async def Describe(self, request: Any, context: Any) -> pb.DescribeResponse:  # noqa: N802
        return pb.DescribeResponse(description=self._description())

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[pb.WatchResponse]:  # noqa: N802
        c = self.capability
        load = Load((ModelLoad(c.pipeline, c.model, 1, 0, 0, warm=True, wait_s=0.0),))
        yield pb.WatchResponse(description=self._description(), load=codec.load_to_message(load))
        await context.done_event.wait() if hasattr(context, "done_event") else await _for_ever()

    async def Generate(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        self.asked += 1
        first = codec.frame_from_message(await anext(request_iterator))
        assert isinstance(first, TicketFrame)
        ticket = open_ticket(first.ticket)
        read: Any = (await self._input(ticket, request_iterator),) if self.takes_input else ()
        for value in self.script(ticket, *read):
            await context.write(codec.frame_to_message(value))
        with contextlib.suppress(StopAsyncIteration):
            await anext(request_iterator)

    async def _input(self, ticket: Ticket, frames: Any) -> bytes:
        data = b""
        while len(data) < sum(ref.size for ref in ticket.inputs):
            chunk = codec.frame_from_message(await anext(frames))
            assert isinstance(chunk, InputChunk)
            data += chunk.data
        return data

    def _description(self) -> Any:
        description = Description(NodeId(self.identity.id), "epoch", 1, 1, 1, (self.capability,))
        return codec.signed_to_message(sign_description(self.identity, description))


async def _for_ever() -> None:
    import asyncio

    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def running(node: LyingNode) -> AsyncIterator[str]:
    """Serves the node; yields its address."""
    server = grpc.aio.server()
    add_OrchestratorServiceServicer_to_server(node, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}#{node.identity.id}"
    finally:
        await server.stop(0)


def capability(digest: str = "0" * 64, pipeline: str = "text-to-image") -> Capability:
    """What the lie is about: small pictures or clips of the synthetic model, for nothing."""
    return Capability(pipeline, PIPELINES[pipeline].schema, "synthetic/bars", digest, Rates(), slots=8)


def png(width: int = 64, height: int = 64, colour: str = "red") -> bytes:
    """A picture of one colour with a line across, so that it is not constant."""
    image = Image.new("RGB", (width, height), colour)
    image.paste("blue", (0, 0, width, height // 2))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def delivery(data: bytes, media_type: str = "image/png", index: int = 0, **claims: Any) -> list[FrameValue]:
    """One output's frames, with the claims that are changed."""
    values = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "nsfw": False, **claims}
    return [Output(index, media_type, seed=0, **values), Chunk(data)]


def whole(ticket: Ticket, *outputs: FrameValue, digest: str | None = None) -> list[FrameValue]:
    """A job's frames around its outputs."""
    return [Accepted(0, 0, 0), Started(), *outputs, Done({}, 0, digest or ticket.model_digest)]
