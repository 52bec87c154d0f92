"""The floor's node: bare grpc.aio in front, aiohttp behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc

from benchmark.floor import messages
from benchmark.floor.messages import Script
from reelnet.jobs import Event
from reelnet.rpc import RpcLimits, server_options
from reelnet.v1 import orchestrator_pb2
from reelnet.v1 import types_pb2 as pb

SERVICE = orchestrator_pb2.DESCRIPTOR.services_by_name["OrchestratorService"].full_name
UNARY_SERVICE, UNARY_METHOD = "reelnet.floor", "Unary"
BASE = "http://runner"
HEADERS = {"Content-Type": "application/json"}
Context = grpc.aio.ServicerContext[Any, Any]


class FloorNode:
    """Sends what a node sends, when it gets what a node gets."""

    def __init__(self, runner: aiohttp.ClientSession, script: Script) -> None:
        self._runner = runner
        self._script = script

    async def generate(self, request_iterator: AsyncIterator[pb.Frame], context: Context) -> None:
        """One job, from the ticket to the acknowledgement."""
        frames = aiter(request_iterator)
        await anext(frames)
        for message in messages.batches(await self._run()):
            await context.write(message)
        await anext(frames, None)

    async def unary(self, request: pb.Frame, context: Context) -> pb.Frame:
        """One request and one reply."""
        async with self._runner.post(f"{BASE}/unary", data=request.input.data, headers=HEADERS) as answer:
            return pb.Frame(chunk=pb.Chunk(data=await answer.read()))

    async def _run(self) -> list[Event]:
        async with self._runner.post(f"{BASE}/jobs", data=self._script.order, headers=HEADERS) as answer:
            return [messages.accepted(), *_told(await answer.read())]


def _told(stream: bytes) -> Iterator[Event]:
    """What a node makes of a runner's stream. It takes the runner's word for the digest."""
    chunks, at = list[bytes](), 0
    while at < len(stream):
        end = stream.index(b"\n", at)
        line, at = json.loads(stream[at:end]), end + 1
        match line["event"]:
            case "started":
                yield messages.started()
            case "chunk":
                chunks.append(stream[at : at + line["size"]])
                at += line["size"]
            case "output_end":
                yield from messages.output(chunks, line["sha256"])
            case "done":
                yield messages.done(line)


@asynccontextmanager
async def serve(script: Script, socket: Path) -> AsyncIterator[int]:
    """Serves before the runner at `socket` for the length of the block; yields the port."""
    connector = aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=30)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=512 * 1024, auto_decompress=False) as session:
        server = grpc.aio.server(options=server_options(RpcLimits()))
        server.add_generic_rpc_handlers(_handlers(FloorNode(session, script)))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield port
        finally:
            await server.stop(None)


def _handlers(node: FloorNode) -> tuple[grpc.GenericRpcHandler, ...]:
    read, write = pb.Frame.FromString, pb.Frame.SerializeToString
    generate = grpc.stream_stream_rpc_method_handler(node.generate, read, write)
    unary = grpc.unary_unary_rpc_method_handler(node.unary, read, write)
    return (
        grpc.method_handlers_generic_handler(SERVICE, {"Generate": generate}),
        grpc.method_handlers_generic_handler(UNARY_SERVICE, {UNARY_METHOD: unary}),
    )
