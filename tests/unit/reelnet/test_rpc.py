"""Failures as gRPC statuses with typed details, and back."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reelnet.errors import (
    BusyError,
    CanceledError,
    DeadlineError,
    FailureClass,
    NodeError,
    OutOfMemoryError,
    ReelnetError,
    TransientError,
    from_class,
)
from reelnet.rpc import (
    CHUNK_BYTES,
    GRPC_STATUS,
    MessageBudget,
    RpcLimits,
    abort,
    channel_options,
    details_of,
    error_from,
    server_options,
)

KEY = "grpc-status-details-bin"
CODE = grpc.StatusCode


def failed_call(code: grpc.StatusCode, *details: bytes, text: str = "text") -> grpc.aio.AioRpcError:
    """A call's failure as gRPC raises it, with these details in its trailing metadata."""
    trailing = grpc.aio.Metadata(*((KEY, data) for data in details))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, text)


def packed(*messages: Any) -> bytes:
    """A google.rpc.Status with these details."""
    status = Status(code=8, message="text")
    for message in messages:
        status.details.add().Pack(message)
    return status.SerializeToString()


@pytest.mark.parametrize("failure", FailureClass)
@pytest.mark.parametrize("retry_after_s", [None, 0.0, 2.5, 3600.0])
def test_a_failure_survives_its_status(failure: FailureClass, retry_after_s: float | None) -> None:
    """Class, code, text and wait of every error come back as they were."""
    sent = from_class(failure, "a text", code="a_code", retry_after_s=retry_after_s)
    got = error_from(failed_call(GRPC_STATUS[sent.failure], details_of(sent), text=sent.message))
    assert type(got) is type(sent)
    assert (got.message, got.code, got.retry_after_s) == ("a text", "a_code", retry_after_s)


def test_a_status_says_what_the_protocol_promises() -> None:
    """ErrorInfo with our domain, the code as reason and the class as metadata; RetryInfo when there is a wait."""
    status = Status.FromString(details_of(BusyError("full", retry_after_s=1.5)))
    info, wait = ErrorInfo(), RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(wait)
    assert (info.domain, info.reason, dict(info.metadata)) == ("reelnet", "queue_full", {"class": "busy"})
    assert wait.retry_delay.ToMilliseconds() == 1500
    assert (status.code, status.message) == (8, "full")


@pytest.mark.parametrize("code", [c for c in CODE if c not in (CODE.OK, CODE.DEADLINE_EXCEEDED, CODE.CANCELLED)])
def test_a_status_without_our_detail_is_transport(code: grpc.StatusCode) -> None:
    """RESOURCE_EXHAUSTED is also an oversized message, INVALID_ARGUMENT a proxy's word: a bare status is no class."""
    error = error_from(failed_call(code))
    assert type(error) is TransientError
    assert error.code == code.name.lower()


def test_our_own_deadline_and_cancel_have_no_detail() -> None:
    """gRPC raises these two itself on the calling side."""
    assert type(error_from(failed_call(CODE.DEADLINE_EXCEEDED))) is DeadlineError
    assert type(error_from(failed_call(CODE.CANCELLED))) is CanceledError


@pytest.mark.parametrize(
    "details",
    [
        b"\xff\xff",
        b"",
        packed(),
        packed(ErrorInfo(domain="elsewhere", reason="x", metadata={"class": "user"})),
        packed(ErrorInfo(domain="reelnet", reason="x")),
        packed(RetryInfo(retry_delay=Duration(seconds=5))),
    ],
)
def test_details_that_are_not_ours_are_transport(details: bytes) -> None:
    """Unreadable details, another domain, or no class: nothing is known of the job."""
    assert type(error_from(failed_call(CODE.RESOURCE_EXHAUSTED, details))) is TransientError


@pytest.mark.parametrize("name", ["google.rpc.ErrorInfo", "google.rpc.RetryInfo"])
def test_a_damaged_detail_is_transport(name: str) -> None:
    """A node may send any bytes as a detail: a broadcaster answers with a typed failure, never with a crash."""
    damaged = AnyMessage(type_url=f"type.googleapis.com/{name}", value=b"\xff\xff\xff")
    details = Status(code=13, message="text", details=[damaged]).SerializeToString()
    assert isinstance(error_from(failed_call(CODE.INTERNAL, details)), ReelnetError)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_typed_failure(details: bytes) -> None:
    """Whatever stands in the metadata, the failure is one of ours."""
    assert isinstance(error_from(failed_call(CODE.INTERNAL, details)), ReelnetError)


def test_an_unknown_class_is_the_nodes_failure() -> None:
    """A later version's class costs the node, not the job."""
    info = ErrorInfo(domain="reelnet", reason="x", metadata={"class": "novel"})
    assert type(error_from(failed_call(CODE.INTERNAL, packed(info)))) is NodeError


def test_the_class_decides_not_the_status() -> None:
    """Out of memory and busy share a gRPC status, and never each other's name."""
    error = error_from(failed_call(CODE.RESOURCE_EXHAUSTED, details_of(OutOfMemoryError("8 GiB short"))))
    assert type(error) is OutOfMemoryError


@pytest.mark.parametrize(("seconds", "seen"), [(-5, 0), (7200, 3600), (2**62, 3600), (-(2**62), 0)])
def test_a_nodes_wait_is_bounded(seconds: int, seen: float) -> None:
    """A node cannot send apps away for a week."""
    info = ErrorInfo(domain="reelnet", reason="queue_full", metadata={"class": "busy"})
    details = packed(info, RetryInfo(retry_delay=Duration(seconds=seconds)))
    assert error_from(failed_call(CODE.RESOURCE_EXHAUSTED, details)).retry_after_s == seen


def test_a_transport_text_is_cleaned() -> None:
    """The details of a status are a stranger's text too."""
    error = error_from(failed_call(CODE.UNAVAILABLE, text="\x1b]0;" + "a" * 1000))
    assert "\x1b" not in error.message
    assert len(error.message) < 300


def test_a_long_text_is_cut_before_it_is_sent() -> None:
    """A text that repeats what a stranger sent would be more metadata than a client takes."""
    assert len(details_of(BusyError("×" * 100_000))) < 2000


async def test_abort_ends_a_call_with_the_error() -> None:
    """The service's way to fail: status, text and details of the error."""

    class Context:
        async def abort(self, *what: object) -> None:
            self.what = what
            raise RuntimeError("aborted")

    context, error = Context(), BusyError("full", retry_after_s=3)
    with pytest.raises(RuntimeError, match="aborted"):
        await abort(context, error)  # type: ignore[arg-type]
    assert context.what == (CODE.RESOURCE_EXHAUSTED, "full", ((KEY, details_of(error)),))


def test_a_chunk_fits_into_a_message() -> None:
    """Both sides bound messages alike, and a full chunk with its frame is under that bound."""
    limits = RpcLimits()
    for options in (dict(channel_options(limits)), dict(server_options(limits))):
        assert options["grpc.max_receive_message_length"] == limits.message_bytes > CHUNK_BYTES + 1024
        assert options["grpc.max_metadata_size"] == limits.metadata_bytes


@pytest.mark.parametrize("servers_s", [1, 30, 600])
def test_quick_pings_are_no_offence(servers_s: float) -> None:
    """A client may ping as often as any configuration allows, whatever the server's own interval is."""
    quickest = dict(channel_options(RpcLimits(keepalive_s=1)))["grpc.keepalive_time_ms"]
    server = dict(server_options(RpcLimits(keepalive_s=servers_s)))
    assert server["grpc.http2.min_recv_ping_interval_without_data_ms"] < quickest
    assert server["grpc.keepalive_permit_without_calls"] == 1
    with pytest.raises(ValidationError):
        RpcLimits(keepalive_s=0.9)


def test_a_flood_of_small_messages_has_an_end() -> None:
    """A thousand come free, then some a second, and one for each KiB: large ones are no flood, small ones are."""
    now = [0.0]
    small, large = (MessageBudget(NodeError, lambda: now[0]) for _ in range(2))
    for _ in range(1000):
        small.take(1)
    now[0] = 10.0
    for _ in range(1000):
        small.take(1)
    with pytest.raises(NodeError) as flood:
        small.take(1), small.take(1), small.take(1)
    assert flood.value.code == "flood"
    for _ in range(100_000):
        large.take(1024)
