"""One timer for many waits."""

from __future__ import annotations

import asyncio
import time

import pytest

from reelnet.patience import Patience

SOON_S, ENOUGH_S, LONG_S = 0.02, 0.6, 60.0
GRAIN_S = 0.002
"""A loop may count whole milliseconds; a busy machine may take ENOUGH_S / 2 from a test at any place."""


class LateError(Exception):
    """What a wait that took too long ends with."""


async def _wait_for_ever(*limits_s: float) -> None:
    """Within the last of the limits."""
    async with asyncio.timeout(LONG_S), Patience() as patience:
        for limit_s in limits_s:
            patience.within(limit_s, LateError)
        await asyncio.Event().wait()


async def test_a_wait_that_takes_too_long_ends_the_block() -> None:
    """With its own error; the task goes on behind it, not canceled."""
    with pytest.raises(LateError):
        await _wait_for_ever(SOON_S)
    await asyncio.sleep(0)


@pytest.mark.parametrize("first_s", [SOON_S, LONG_S])
async def test_the_newest_limit_is_the_one_that_counts(first_s: float) -> None:
    """Whether it is the earlier or the later one: the timer follows."""
    began_s = time.monotonic()
    with pytest.raises(LateError):
        await _wait_for_ever(first_s, 2 * SOON_S)
    assert time.monotonic() - began_s >= 2 * SOON_S - GRAIN_S


async def test_a_limit_that_is_moved_on_in_time_ends_nothing() -> None:
    """Each wait has its own time, however many there are; resting has no end."""
    async with Patience() as patience:
        for _ in range(4):
            patience.within(ENOUGH_S, LateError)
            await asyncio.sleep(ENOUGH_S / 3)
        patience.rest()
        await asyncio.sleep(ENOUGH_S * 1.1)
        patience.within(LONG_S, LateError)


async def test_an_error_of_the_block_stays_what_it_is() -> None:
    """Also one of the kind that a scope of asyncio's ends with."""

    async def fail() -> None:
        async with Patience() as patience:
            patience.within(LONG_S, LateError)
            raise TimeoutError("another's")

    with pytest.raises(TimeoutError, match="another's"):
        await fail()


async def test_a_cancel_stays_a_cancel() -> None:
    """The limit swallows no cancel that came from elsewhere."""
    task = asyncio.create_task(_wait_for_ever(LONG_S))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
