"""The node's gRPC services: OrchestratorService, health, and reflection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from orchestrator.conversation import converse
from orchestrator.node import Node
from reelnet import codec
from reelnet.codec import FrameValue
from reelnet.errors import ReelnetError, StartError
from reelnet.rpc import abort, server_options
from reelnet.settings import Listener
from reelnet.v1 import orchestrator_pb2 as pb
from reelnet.v1 import types_pb2 as types
from reelnet.v1.orchestrator_pb2_grpc import OrchestratorServiceServicer, add_OrchestratorServiceServicer_to_server

SERVICE = pb.DESCRIPTOR.services_by_name["OrchestratorService"].full_name
STOP_GRACE_S = 2.0
Context = grpc.aio.ServicerContext[Any, Any]


class OrchestratorService(OrchestratorServiceServicer):
    """Answers for one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:  # noqa: N802
        return pb.DescribeResponse(description=codec.signed_to_message(self._node.description()))

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:  # noqa: N802
        told = None
        while True:
            changed = self._node.changed()
            signed = self._node.description()
            news = codec.signed_to_message(signed) if signed is not told else None
            told = signed
            yield pb.WatchResponse(description=news, load=codec.load_to_message(self._node.load()))
            await asyncio.sleep(self._node.settings.limits.load_interval_s)
            await changed.wait()

    async def Probe(self, request: pb.ProbeRequest, context: Context) -> pb.ProbeResponse:  # noqa: N802
        try:
            in_flight, age_s, wait_s = self._node.probe(request.pipeline, request.model)
        except ReelnetError as error:
            await abort(context, error)
        return pb.ProbeResponse(in_flight=in_flight, queue_age_s=age_s, wait_s=wait_s)

    async def Generate(  # type: ignore[override]  # noqa: N802  (frames are written, not yielded)
        self, request_iterator: AsyncIterator[types.Frame], context: Context
    ) -> None:
        async def send(values: Sequence[FrameValue]) -> None:
            await context.write(codec.frames_to_message(values))

        try:
            await converse(self._node, _Frames(context), send)
        except ReelnetError as error:
            await abort(context, error)


class _Frames:
    """The frames of a call, read from it one message at a time: an async generator around each would cost more."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._values: deque[FrameValue] = deque()

    def __aiter__(self) -> _Frames:
        return self

    async def __anext__(self) -> FrameValue:
        while not self._values:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                raise StopAsyncIteration
            self._values += codec.frames_from_message(message)
        return self._values.popleft()


class _ByName:
    """A server as generated code fills it, whose methods are looked up by name.

    For each method that is registered beside that, grpc.aio keeps a task of its own that waits for calls, and at each
    call goes through all of them.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """They are among the generic ones."""


@asynccontextmanager
async def serve(node: Node, listener: Listener) -> AsyncIterator[int]:
    """Serves a node for the length of the block; yields the port. Raises StartError when the port is taken."""
    limits = node.settings.rpc
    server = grpc.aio.server(options=server_options(limits), maximum_concurrent_rpcs=limits.concurrent_calls)
    services: Any = _ByName(server)
    add_OrchestratorServiceServicer_to_server(OrchestratorService(node), services)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, services)
    reflection.enable_server_reflection(
        (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), services
    )
    address = f"[{listener.host}]" if ":" in listener.host else listener.host
    try:
        port = server.add_insecure_port(f"{address}:{listener.port}")
    except RuntimeError:
        raise StartError(
            f"cannot listen on {address}:{listener.port}: the port is in use; free it, or set `grpc.port`"
        ) from None
    await server.start()
    await health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield port
    finally:
        await health.enter_graceful_shutdown()
        await server.stop(STOP_GRACE_S)
