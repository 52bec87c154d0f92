"""The floor's broadcaster: bare ASGI in front, grpc.aio behind."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from starlette.types import Receive, Scope, Send

from benchmark.floor import messages
from benchmark.floor.asgi import BYTES, JSON, PNG, answer, read_body
from benchmark.floor.messages import Script
from benchmark.floor.node import UNARY_METHOD, UNARY_SERVICE
from reelnet import codec
from reelnet.http_headers import REQUEST_ID, new_request_id
from reelnet.http_server import serve_http
from reelnet.jobs import Chunk, Done, Output
from reelnet.rpc import RpcLimits, channel_options
from reelnet.settings import Listener
from reelnet.v1 import types_pb2 as pb
from reelnet.v1.orchestrator_pb2_grpc import OrchestratorServiceStub

TIMEOUT_S = 300
MEDIA = "/media/"
Call = grpc.aio.StreamStreamCall[pb.Frame, pb.Frame]


class Gateway:
    """`POST /text-to-image`, then `GET /media/…`, say what the product says; `POST /unary` answers with the result."""

    def __init__(self, script: Script, channel: grpc.aio.Channel) -> None:
        self._script = script
        self._stub = OrchestratorServiceStub(channel)
        self._unary: Any = channel.unary_unary(
            f"/{UNARY_SERVICE}/{UNARY_METHOD}", pb.Frame.SerializeToString, pb.Frame.FromString
        )
        self._results: dict[str, bytes] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        body = await read_body(receive)
        path: str = scope["path"]
        if path == "/unary":
            reply = await self._unary(pb.Frame(input=pb.InputChunk(data=body)))
            await answer(send, reply.chunk.data, [BYTES])
        elif path.startswith(MEDIA):
            name = path.removeprefix(MEDIA)
            await answer(send, self._results.pop(name), [*messages.media_headers(name), PNG, _request_id()])
        else:
            host = next(value for key, value in scope["headers"] if key == b"host").decode()
            await answer(send, await self._job(f"http://{host}"), [JSON, _request_id()])

    async def settled(self) -> None:
        """Returns when what was received has been acknowledged."""
        if self._settling:
            await asyncio.wait(self._settling)

    async def _job(self, base: str) -> bytes:
        call = self._stub.Generate(timeout=TIMEOUT_S)
        await call.write(self._script.ticket)
        data = await _receive(call)
        self._acknowledge(call)
        self._count += 1
        name = f"{self._count:032x}.png"
        self._results[name] = data
        return messages.answer(base, name)

    def _acknowledge(self, call: Call) -> None:
        """Nobody waits for it, as in the product; the call lives until it is said."""
        task = asyncio.create_task(_settle(call), name="settle")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)


def _request_id() -> tuple[bytes, bytes]:
    return REQUEST_ID.encode(), new_request_id().encode()


async def _receive(call: Call) -> bytes:
    """The result, its digest compared."""
    pieces, digest, expected, ended = list[bytes](), hashlib.sha256(), "", False
    while not ended:
        message = await call.read()
        assert isinstance(message, pb.Frame), "the node ended the stream before the job was done"
        for event in codec.frames_from_message(message):
            match event:
                case Output(sha256=sha256):
                    expected = sha256
                case Chunk(data=piece):
                    digest.update(piece)
                    pieces.append(piece)
                case Done():
                    ended = True
    assert digest.hexdigest() == expected, "the result was damaged on its way"
    return b"".join(pieces)


async def _settle(call: Call) -> None:
    await call.write(messages.acknowledge())
    await call.code()


@asynccontextmanager
async def serve(script: Script, node_port: int) -> AsyncIterator[int]:
    """Serves before the node at `node_port` for the length of the block; yields the port."""
    options = channel_options(RpcLimits())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node_port}", options=options) as channel:
        gateway = Gateway(script, channel)
        async with serve_http(gateway, Listener(port=0), "http") as port:
            yield port
        await gateway.settled()
