"""The node's gRPC services: OrchestratorService, health, and reflection.

Requests and answers are bytes here. `reelnet.codec` reads and writes them, so that bytes that are no message end their
own call with a clear refusal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from orchestrator.call_limits import GENERATE, UNOPENED, BoundedHandler, CallLimits
from orchestrator.conversation import converse
from orchestrator.node import Node
from reelnet import codec
from reelnet.clocks import now_ms
from reelnet.codec import DescribeAnswer, FrameValue, ProbeAnswer, WatchAnswer
from reelnet.errors import ReelnetError, StartError, UserError
from reelnet.identity import Signed
from reelnet.rpc import SERVICE, MessageBudget, abort, server_options
from reelnet.settings import Listener

STOP_GRACE_S = 2.0
Context = grpc.aio.ServicerContext[Any, Any]


class OrchestratorService:
    """Answers for one node."""

    def __init__(self, node: Node, limits: CallLimits) -> None:
        self._node = node
        self._limits = limits

    def handler(self) -> grpc.GenericRpcHandler:
        """The service's methods, by name, over bytes."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Describe": grpc.unary_unary_rpc_method_handler(_typed(self.describe)),
                "Watch": grpc.unary_stream_rpc_method_handler(_typed(self.watch)),
                "Probe": grpc.unary_unary_rpc_method_handler(_typed(self.probe)),
                "Generate": grpc.stream_stream_rpc_method_handler(_typed(self.generate)),
            },
        )

    async def describe(self, request: bytes, context: Context) -> bytes:
        proof = self._node.prove(codec.watch_request_from_bytes(request).challenge)
        return codec.describe_answer_to_bytes(DescribeAnswer(self._node.description(), proof))

    async def watch(self, request: bytes, context: Context) -> None:
        asked = codec.watch_request_from_bytes(request)
        name, proof = asked.challenge.audience if asked.challenge else "", self._node.prove(asked.challenge)
        with self._node.watchers.watching(name, asked.now_ms):
            await self._tell(name, proof, context)

    async def _tell(self, watcher: str, proof: Signed | None, context: Context) -> None:
        """Each change of the node, until the call ends."""
        told = None
        while True:
            changed = self._node.changed()
            signed = self._node.description()
            news = signed if signed is not told else None
            told, refuses = signed, not self._node.serves(watcher)
            answer = WatchAnswer(news, self._node.load(), proof, now_ms(), refuses)
            await context.write(codec.watch_answer_to_bytes(answer))
            proof = None
            await asyncio.sleep(self._node.settings.limits.load_interval_s)
            await changed.wait()

    async def probe(self, request: bytes, context: Context) -> bytes:
        return codec.probe_answer_to_bytes(ProbeAnswer(*self._node.probe(*codec.probe_request_from_bytes(request))))

    async def generate(self, frames: object, context: Context) -> None:
        async def send(values: Sequence[FrameValue]) -> None:
            await context.write(codec.frames_to_bytes(values))

        connection = context.peer()
        with ExitStack() as place:

            def opened() -> None:
                place.close()
                place.enter_context(self._limits.place(GENERATE, connection))

            place.enter_context(self._limits.place(UNOPENED, connection))
            await converse(self._node, _Frames(context, opened), send)


def _typed(call: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    """The call with its failure as a status with details."""

    async def answer(request: Any, context: Context) -> Any:
        try:
            return await call(request, context)
        except ReelnetError as error:
            await abort(context, error)

    return answer


class _Frames:
    """The frames of a call, read from it one message at a time: an async generator around each would cost more.

    `opened` is called when the first message has come. Raises UserError for bytes that are no frame, and for a flood.
    """

    def __init__(self, context: Context, opened: Callable[[], None]) -> None:
        self._context = context
        self._opened: Callable[[], None] | None = opened
        self._values: deque[FrameValue] = deque()
        self._budget = MessageBudget(UserError)

    def __aiter__(self) -> _Frames:
        return self

    async def __anext__(self) -> FrameValue:
        while not self._values:
            message = await self._context.read()
            if not isinstance(message, bytes):
                raise StopAsyncIteration
            if opened := self._opened:
                self._opened = None
                opened()
            self._budget.take(len(message))
            self._values += codec.frames_from_bytes(message, UserError)
        return self._values.popleft()


class _Services:
    """Collects handlers as generated code registers them.

    For each method that is registered beside that, grpc.aio keeps a task of its own that waits for calls, and at each
    call goes through all of them.
    """

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self.handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """They are among the generic ones."""


@asynccontextmanager
async def serve(node: Node, listener: Listener) -> AsyncIterator[int]:
    """Serves a node for the length of the block; yields the port. Raises StartError when the port is taken."""
    limits = CallLimits(node.settings.rpc)
    services: Any = _Services()
    services.add_generic_rpc_handlers([OrchestratorService(node, limits).handler()])
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, services)
    names = SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(names), services)
    server = grpc.aio.server(options=server_options(node.settings.rpc))
    server.add_generic_rpc_handlers((BoundedHandler(services.handlers, limits),))
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
