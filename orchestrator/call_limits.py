"""How many calls a node answers at once: bounds for each method and for each connection of it.

Without them one connection could take every place that there is, and nobody else would be answered.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from reelnet.errors import BusyError, ReelnetError, UserError
from reelnet.rpc import SERVICE, MessageBudget, RpcLimits, abort

RETRY_AFTER_S = 5.0
GENERATE = f"/{SERVICE}/Generate"
UNOPENED = "unopened"
"""The calls of Generate whose ticket has not come, as a method of their own."""
Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Any]


@dataclass(frozen=True, slots=True)
class Bound:
    """Most calls of a method at once: in all, and of one connection."""

    total: int
    connection: int


class CallLimits:
    """Counts the calls under way. `place` is one of them, or BusyError."""

    def __init__(self, limits: RpcLimits) -> None:
        self._other = Bound(limits.other_calls, limits.connection_other_calls)
        self._bounds = {
            GENERATE: Bound(limits.concurrent_calls, limits.connection_calls),
            f"/{SERVICE}/Watch": Bound(limits.watches, limits.connection_watches),
            UNOPENED: Bound(max(1, limits.concurrent_calls // 4), limits.unopened_calls),
        }
        self._calls: Counter[str] = Counter()
        self._of_connection: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def place(self, method: str, connection: str) -> Iterator[None]:
        """A call's place for the length of the block. Raises BusyError when the connection, or everybody, has all."""
        bound, key = self._bounds.get(method, self._other), (method, connection)
        if self._of_connection[key] >= bound.connection:
            raise _busy(f"this connection has {bound.connection} such calls under way, as many as it may have")
        if self._calls[method] >= bound.total:
            raise _busy(f"this node answers {bound.total} such calls at once, and no more")
        self._calls[method] += 1
        self._of_connection[key] += 1
        try:
            yield
        finally:
            self._calls[method] -= 1
            self._of_connection[key] -= 1
            if not self._of_connection[key]:
                del self._of_connection[key]


class BoundedHandler(grpc.GenericRpcHandler):
    """The methods of other handlers, each call of which takes a place first; `GENERATE` takes its own."""

    def __init__(self, inner: Sequence[grpc.GenericRpcHandler], limits: CallLimits) -> None:
        self._inner = inner
        self._limits = limits
        self._known: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The method that a call names, None where there is none such."""
        method = handler_call_details.method
        if method in self._known:
            return self._known[method]
        for handler in self._inner:
            if found := handler.service(handler_call_details):
                bounded = found if method == GENERATE else _bounded(found, method, self._limits)
                self._known[method] = bounded
                return bounded
        return None


def _bounded(handler: Any, method: str, limits: CallLimits) -> Any:
    kind = f"{_arity(handler.request_streaming)}_{_arity(handler.response_streaming)}"
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    call = _call(getattr(handler, kind), method, limits)
    return make(call, handler.request_deserializer, handler.response_serializer)


def _arity(streaming: bool) -> str:
    return "stream" if streaming else "unary"


async def counted(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, which has so many as a job's has at the most. Raises UserError."""
    budget = MessageBudget(UserError)
    async for request in requests:
        budget.take(0)
        yield request


def _call(inner: Handler, method: str, limits: CallLimits) -> Handler:
    """`inner` with a place around it."""

    async def answer(request: Any, context: Context) -> Any:
        try:
            with limits.place(method, context.peer()):
                if not inspect.isasyncgenfunction(inner):
                    return await inner(request, context)
                async for message in inner(counted(request), context):
                    await context.write(message)
        except ReelnetError as error:
            await abort(context, error)

    return answer


def _busy(message: str) -> BusyError:
    return BusyError(message, code="calls", retry_after_s=RETRY_AFTER_S)
