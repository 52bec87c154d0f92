"""gRPC as every component uses it: bounded channels and servers, and failures as typed details of a status."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from pydantic import Field

from reelnet.errors import CanceledError, DeadlineError, ReelnetError, TransientError, from_class, printable
from reelnet.settings import Section

DOMAIN = "reelnet"
PROTOCOL = 1
"""The protocol version that this code speaks; a description gives a range."""
CHUNK_BYTES = 256 * 1024
EAGER_INPUT_BYTES = 1024 * 1024
"""So much input may follow a ticket before it is accepted."""
_DETAILS_KEY = "grpc-status-details-bin"


class RpcLimits(Section):
    """Bounds of every gRPC channel and server."""

    message_bytes: int = Field(2**20, ge=2**19, le=2**22, description="Bytes of one message.")
    metadata_bytes: int = Field(16 * 1024, ge=4096, description="Bytes of one call's metadata.")
    concurrent_calls: int = Field(1000, ge=1, description="Calls that a server answers at once.")
    keepalive_s: float = Field(30, ge=1, description="Seconds between two signs of life on a quiet connection.")


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
    """Options of a server: message and metadata size, and keepalive as clients send it."""
    return [
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", int(limits.keepalive_s * 500)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(limits.keepalive_s * 500)),
        ("grpc.so_reuseport", 0),
    ]


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: ReelnetError) -> NoReturn:
    """Ends the call with the error's status, its class and code as ErrorInfo, its wait as RetryInfo."""
    await context.abort(error.grpc_status, error.message, ((_DETAILS_KEY, details_of(error)),))
    raise AssertionError("abort does not return")


def details_of(error: ReelnetError) -> bytes:
    """The google.rpc.Status that travels with an error."""
    info = ErrorInfo(reason=error.code, domain=DOMAIN, metadata={"class": error.failure.value})
    status = Status(code=error.grpc_status.value[0], message=error.message, details=[_packed(info)])
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


def _packed(message: ErrorInfo | RetryInfo) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
