"""The clock of tests that must not race one."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.fakes.virtual_time import in_virtual_time


@in_virtual_time
async def test_a_day_passes_in_no_time() -> None:
    """What is due earlier happens earlier, and a limit that is reached is reached exactly."""
    loop, began = asyncio.get_running_loop(), time.monotonic()
    order: list[str] = []
    loop.call_later(7200, order.append, "later")
    loop.call_later(3600, order.append, "earlier")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(86_400):
            await asyncio.Event().wait()
    assert (order, loop.time()) == (["earlier", "later"], 86_400)
    assert time.monotonic() - began < 60
