"""gRPC as every component uses it: bounded channels and servers, and failures as typed details of a status."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from pydantic import Field

from reelnet.errors import (
    MAX_MESSAGE_CHARS,
    CanceledError,
    DeadlineError,
    FailureClass,
    ReelnetError,
    TransientError,
    from_class,
    printable,
)
from reelnet.settings import Section

SERVICE = "reelnet.v1.OrchestratorService"
"""The node's service. Its methods carry bytes here: `reelnet.codec` reads and writes them."""
DOMAIN = "reelnet"
PROTOCOL = 1
"""The protocol version that this code speaks; a description gives a range."""
CHUNK_BYTES = 256 * 1024
EAGER_INPUT_BYTES = 256 * 1024
"""So much input may go with a ticket, in one message, before it is accepted."""
FREE_MESSAGES, MESSAGES_A_S, BYTES_A_MESSAGE = 1000, 100, 1024
"""One job's stream may bring so many messages, so many more in each second, and one more for so many bytes."""
QUICKEST_PING_S = 0.5
"""A server takes pings of any client that sends no more than one in this time, whatever its own settings."""
GRPC_STATUS: dict[FailureClass, grpc.StatusCode] = {
    FailureClass.USER: grpc.StatusCode.INVALID_ARGUMENT,
    FailureClass.BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FailureClass.REFUSED: grpc.StatusCode.PERMISSION_DENIED,
    FailureClass.UNSUPPORTED: grpc.StatusCode.FAILED_PRECONDITION,
    FailureClass.OOM: grpc.StatusCode.RESOURCE_EXHAUSTED,
    FailureClass.POISON: grpc.StatusCode.ABORTED,
    FailureClass.TRANSIENT: grpc.StatusCode.UNAVAILABLE,
    FailureClass.NODE: grpc.StatusCode.INTERNAL,
    FailureClass.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    FailureClass.CANCELED: grpc.StatusCode.CANCELLED,
}
"""What each failure class is called over gRPC; `reelnet.errors` has the table for HTTP."""
_DETAILS_KEY = "grpc-status-details-bin"


class RpcLimits(Section):
    """Bounds of every gRPC channel and server."""

    message_bytes: int = Field(2**20, ge=2**19, le=2**22, description="Bytes of one message.")
    metadata_bytes: int = Field(16 * 1024, ge=4096, description="Bytes of one call's metadata.")
    concurrent_calls: int = Field(1000, ge=1, description="Jobs that a server takes calls for at once.")
    connection_calls: int = Field(500, ge=1, description="Of these, those of one connection.")
    unopened_calls: int = Field(200, ge=1, description="Calls of one connection that have not sent their ticket.")
    watches: int = Field(250, ge=1, description="Watches that a server answers at once.")
    connection_watches: int = Field(4, ge=1, description="Of these, those of one connection.")
    other_calls: int = Field(64, ge=1, description="Calls of any other method that a server answers at once.")
    connection_other_calls: int = Field(16, ge=1, description="Of these, those of one connection.")
    keepalive_s: float = Field(30, ge=1, description="Seconds between two signs of life on a quiet connection.")
    challenge_s: float = Field(
        300, ge=10, le=300, description="Seconds that a node has to prove its id; clocks may differ by so much."
    )


def channel_options(limits: RpcLimits) -> list[tuple[str, int]]:
    """Options of a client's channel."""
    return [
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.keepalive_time_ms", int(limits.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_s * 1000 / 3)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.use_local_subchannel_pool", 1),
    ]


def server_options(limits: RpcLimits) -> list[tuple[str, int]]:
    """Options of a server: message and metadata size, its own pings, and those of clients with any settings."""
    quickest_ms = int(QUICKEST_PING_S * 1000)
    return [
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.keepalive_time_ms", int(limits.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_s * 1000 / 3)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", quickest_ms),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", quickest_ms),
        ("grpc.so_reuseport", 0),
    ]


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ReelnetError) -> NoReturn:
    """Ends the call with the error's status, its class and code as ErrorInfo, its wait as RetryInfo.

    Its text is cut: it travels twice, and a client takes so many bytes of metadata and no more.
    """
    message = printable(error.message, MAX_MESSAGE_CHARS)
    await context.abort(GRPC_STATUS[error.failure], message, ((_DETAILS_KEY, details_of(error)),))
    raise AssertionError("abort does not return")


def details_of(error: ReelnetError) -> bytes:
    """The google.rpc.Status that travels with an error."""
    info = ErrorInfo(reason=error.code, domain=DOMAIN, metadata={"class": error.failure.value})
    message = printable(error.message, MAX_MESSAGE_CHARS)
    status = Status(code=GRPC_STATUS[error.failure].value[0], message=message, details=[_packed(info)])
    if error.retry_after_s is not None:
        wait = Duration()
        wait.FromMilliseconds(int(error.retry_after_s * 1000))
        status.details.append(_packed(RetryInfo(retry_delay=wait)))
    data: bytes = status.SerializeToString()
    return data


def error_from(rpc_error: grpc.aio.AioRpcError) -> ReelnetError:
    """The typed failure of a call. A status without our detail is transport: it says nothing of the job."""
    for key, value in rpc_error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes) and (error := _from_details(value)):
            return error
    text = printable(rpc_error.details() or "", 200)
    code = rpc_error.code()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError("the node did not finish in time")
    if code is grpc.StatusCode.CANCELLED:
        return CanceledError("the call was canceled")
    return TransientError(f"the connection to the node failed ({code.name}: {text})", code=code.name.lower())


def _from_details(data: bytes) -> ReelnetError | None:
    """The error of a status's details; None when they are not ours, or damaged."""
    status, info, wait = Status(), ErrorInfo(), RetryInfo()
    failure = code = ""
    retry_after_s: float | None = None
    try:
        status.ParseFromString(data)
        for detail in status.details:
            if detail.Unpack(info) and info.domain == DOMAIN:
                failure, code = info.metadata.get("class", ""), info.reason
            elif detail.Unpack(wait):
                retry_after_s = min(max(wait.retry_delay.ToMilliseconds() / 1000, 0), 3600)
    except DecodeError:
        return None
    return from_class(failure, status.message, code=code, retry_after_s=retry_after_s) if failure else None


class MessageBudget:
    """How many messages a peer may send in one job's stream, so that no flood of small ones holds the event loop."""

    def __init__(self, blame: type[ReelnetError], clock: Callable[[], float] = time.monotonic) -> None:
        self._blame = blame
        self._clock = clock
        self._began = clock()
        self._messages = self._bytes = 0

    def take(self, size: int) -> None:
        """A message of `size` bytes came. Raises the peer's failure, `flood`, for one too many."""
        self._messages += 1
        self._bytes += size
        if self._messages > FREE_MESSAGES and self._messages > self._allowed():
            raise self._blame(f"{self._messages} small messages are too many for one job", code="flood")

    def _allowed(self) -> float:
        seconds = self._clock() - self._began
        return FREE_MESSAGES + MESSAGES_A_S * seconds + self._bytes / BYTES_A_MESSAGE


def _packed(message: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
