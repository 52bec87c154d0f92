"""Bounds of the calls that a node answers: nobody takes all places."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from orchestrator.call_limits import GENERATE, UNOPENED, CallLimits, counted
from reelnet.errors import BusyError, UserError
from reelnet.rpc import SERVICE, RpcLimits

LIMITS = RpcLimits(
    concurrent_calls=8, connection_calls=3, unopened_calls=2, watches=3, connection_watches=2,
    other_calls=3, connection_other_calls=2,
)  # fmt: skip
WATCH, HEALTH = f"/{SERVICE}/Watch", "/grpc.health.v1.Health/Watch"


@pytest.mark.parametrize(
    ("method", "total", "connection"), [(GENERATE, 8, 3), (WATCH, 3, 2), (HEALTH, 3, 2), (UNOPENED, 2, 2)]
)
def test_each_method_and_each_connection_has_a_bound(method: str, total: int, connection: int) -> None:
    """One connection gets its share, all together the method's, and a refusal says when to ask again."""
    limits = CallLimits(LIMITS)
    with contextlib.ExitStack() as calls:
        for _ in range(connection):
            calls.enter_context(limits.place(method, "a"))
        with pytest.raises(BusyError, match=f"this connection has {connection}") as refused, limits.place(method, "a"):
            pass
        assert refused.value.retry_after_s
        for other in range(total - connection):
            calls.enter_context(limits.place(method, f"b{other}"))
        with pytest.raises(BusyError, match=f"answers {total} such calls"), limits.place(method, "c"):
            pass


def test_one_methods_calls_take_no_place_of_anothers() -> None:
    """A connection with all the watches that it may have still gets its jobs answered."""
    limits = CallLimits(LIMITS)
    with limits.place(WATCH, "a"), limits.place(WATCH, "a"), limits.place(HEALTH, "a"), limits.place(GENERATE, "a"):
        pass


def test_an_ended_call_gives_its_place_back() -> None:
    """Also when it fails; and nothing is remembered of a connection that has no call."""
    limits = CallLimits(LIMITS)
    for _ in range(10):
        with pytest.raises(ZeroDivisionError), limits.place(WATCH, "a"):
            raise ZeroDivisionError
    assert not limits._of_connection


async def test_a_stream_of_requests_has_an_end() -> None:
    """A tool that asks for reflection on and on in one stream is refused at last."""

    async def endless() -> AsyncIterator[int]:
        for number in range(10_000):
            yield number

    with pytest.raises(UserError) as flood:
        async for _ in counted(endless()):
            pass
    assert flood.value.code == "flood"
