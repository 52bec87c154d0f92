"""Work that a signal ends early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def unless_stopped(stopping: asyncio.Event, work: Awaitable[T]) -> T | None:
    """The work's result; None when `stopping` was set first, once the canceled work has cleaned up behind itself."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return None
    finally:
        stop.cancel()
        task.cancel()
