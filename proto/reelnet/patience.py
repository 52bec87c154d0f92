"""A limit for many short waits, one after the other, with one timer for all of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

Late = Callable[[], Exception]


class Patience:
    """Bounds what a task waits for, wait by wait. A wait that takes too long ends the block with that wait's error.

    ::

        async with Patience() as patience:
            patience.within(5, TimeoutError)
            ...                 # within 5 s
            patience.within(60, lambda: NodeError("silent"))
            ...                 # within 60 s
            patience.rest()
            ...                 # as long as it takes

    To move the limit is a matter of a number: the timer looks at it when it goes off, where `asyncio.timeout` around
    each wait makes and drops a timer for each. It may be up to the loop's own grain late, and never early.
    """

    def __init__(self) -> None:
        self._scope = asyncio.timeout(None)
        self._loop = asyncio.get_running_loop()
        self._due = self._looks_at = math.inf
        self._late: Late = TimeoutError
        self._timer: asyncio.TimerHandle | None = None

    def within(self, limit_s: float, late: Late) -> None:
        """From now on the task may take `limit_s` seconds, until the limit is moved again; `late` makes the error."""
        self._due, self._late = self._loop.time() + limit_s, late
        if self._due < self._looks_at:
            self._arm()

    def rest(self) -> None:
        """From now on the task may take as long as it likes."""
        self._due = math.inf

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer:
            self._timer.cancel()
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            raise self._late() from None

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._looks_at = self._due
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer, self._looks_at = None, math.inf
        if self._due <= self._loop.time():
            self._scope.reschedule(0)  # at once
        elif self._due < math.inf:
            self._arm()
