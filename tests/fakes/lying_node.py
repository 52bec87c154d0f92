"""A node that signs what it says and delivers something else."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from PIL import Image

from reelnet import codec
from reelnet.codec import DescribeAnswer, FrameValue, InputChunk, TicketFrame, WatchAnswer
from reelnet.errors import UserError
from reelnet.identity import Identity, Signed
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
from reelnet.proof import sign_proof
from reelnet.rpc import SERVICE
from reelnet.ticket import open_ticket, sign_description, sign_receipt

Script = Callable[[Ticket], list[FrameValue]]
InputScript = Callable[[Ticket, bytes], list[FrameValue]]
"""A script that also gets the input's bytes: up to 256 KiB come with the ticket."""


@dataclass
class LyingNode:
    """Advertises a capability at top speed; `script` makes the frames that it sends for a ticket.

    It proves its id, and where it `signs`, `Done` gets a receipt for the outputs that the script claims.
    """

    script: Script | InputScript
    capability: Capability
    identity: Identity = field(default_factory=Identity.generate)
    asked: int = 0
    takes_input: bool = False
    signs: bool = True

    async def describe(self, request: bytes, context: Any) -> bytes:
        return codec.describe_answer_to_bytes(DescribeAnswer(self.description(), self.proof(request)))

    async def watch(self, request: bytes, context: Any) -> None:
        c = self.capability
        load = Load((ModelLoad(c.pipeline, c.model, 1, 0, 0, warm=True, wait_s=0.0),))
        answer = WatchAnswer(self.description(), load, self.proof(request))
        await context.write(codec.watch_answer_to_bytes(answer))
        await asyncio.Event().wait()

    async def generate(self, frames: AsyncIterator[bytes], context: Any) -> None:
        self.asked += 1
        first, *eager = codec.frames_from_bytes(await anext(frames), UserError)
        assert isinstance(first, TicketFrame)
        ticket = open_ticket(first.ticket)
        read: Any = (b"".join(chunk.data for chunk in eager if isinstance(chunk, InputChunk)),)
        values = self.script(ticket, *(read if self.takes_input else ()))
        for value in signed_for(self.identity, ticket, values) if self.signs else values:
            await context.write(codec.frames_to_bytes([value]))
        with contextlib.suppress(StopAsyncIteration):
            await anext(frames)

    def proof(self, request: bytes) -> Signed | None:
        """The answer to a request's challenge."""
        challenge = codec.watch_request_from_bytes(request).challenge
        return sign_proof(self.identity, challenge) if challenge else None

    def description(self) -> Signed:
        """What it says of itself, signed."""
        told = Description(NodeId(self.identity.id), "epoch", 1, 1, 1, (self.capability,))
        return sign_description(self.identity, told)


def signed_for(identity: Identity, ticket: Ticket, values: list[FrameValue]) -> list[FrameValue]:
    """The frames, with a receipt in `Done` for the outputs that they claim."""
    digests = [value.sha256 for value in values if isinstance(value, Output)]
    return [
        replace(value, receipt=sign_receipt(identity, ticket, digests, value.price_nano))
        if isinstance(value, Done)
        else value
        for value in values
    ]


@contextlib.asynccontextmanager
async def running(node: LyingNode) -> AsyncIterator[str]:
    """Serves the node; yields its address."""
    server = grpc.aio.server()
    methods = {
        "Describe": grpc.unary_unary_rpc_method_handler(node.describe),
        "Watch": grpc.unary_stream_rpc_method_handler(node.watch),
        "Generate": grpc.stream_stream_rpc_method_handler(node.generate),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
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
