"""A node that answers with any bytes at all, and one that stands where another one should."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from reelnet import codec
from reelnet.codec import WatchAnswer
from reelnet.identity import Identity
from reelnet.jobs import Capability, Description, Load, ModelLoad, NodeId
from reelnet.proof import sign_proof
from reelnet.rpc import SERVICE
from reelnet.ticket import sign_description

Answers = Callable[[bytes], Iterable[bytes]]
"""Messages for a request's bytes."""


@dataclass
class RawNode:
    """Sends what `watch` and `generate` give, without a look at it. `frames` are the messages that it was sent.

    After its messages a job's stream ends, and a watch goes on where it `stays`.
    """

    watch: Answers
    generate: Answers = lambda request: ()
    frames: list[bytes] = field(default_factory=list)
    watched: int = 0
    stays: bool = True

    async def on_watch(self, request: bytes, context: Any) -> None:
        self.watched += 1
        for message in self.watch(request):
            await context.write(message)
        if self.stays:
            await asyncio.Event().wait()

    async def on_generate(self, frames: AsyncIterator[bytes], context: Any) -> None:
        self.frames.append(await anext(frames))
        for message in self.generate(self.frames[-1]):
            await context.write(message)


@contextlib.asynccontextmanager
async def running_raw(node: RawNode, port: int = 0) -> AsyncIterator[str]:
    """Serves the node; yields host:port."""
    methods = {
        "Watch": grpc.unary_stream_rpc_method_handler(node.on_watch),
        "Generate": grpc.stream_stream_rpc_method_handler(node.on_generate),
    }
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(0)


def introduction(identity: Identity, capability: Capability, request: bytes) -> bytes:
    """The first update of a node that proves its id and serves one thing."""
    told = Description(NodeId(identity.id), "epoch", 1, 1, 1, (capability,))
    load = Load((ModelLoad(capability.pipeline, capability.model, 1, 0, 0, warm=True, wait_s=0.0),))
    challenge = codec.watch_request_from_bytes(request).challenge
    proof = sign_proof(identity, challenge) if challenge else None
    return codec.watch_answer_to_bytes(WatchAnswer(sign_description(identity, told), load, proof))
