"""Databases that refuse or stall, put under a journal in place of its own writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from broadcaster.journal import Journal, Row


class FailingDatabase:
    """Refuses the first `refusals` transactions with `error`, and counts all of them."""

    def __init__(self, journal: Journal, refusals: int, error: Exception) -> None:
        self.transactions = 0
        self.refusals = refusals
        self._error = error
        self._write = journal._write
        journal._write = self.write  # type: ignore[method-assign]

    def write(self, rows: Sequence[Row]) -> None:
        self.transactions += 1
        if self.transactions <= self.refusals:
            raise self._error
        self._write(rows)


class HeldDatabase:
    """Holds each transaction until it is let go, and keeps what it was given."""

    def __init__(self, journal: Journal) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        self.batches: list[list[Row]] = []
        self._write: Callable[[Sequence[Row]], None] = journal._write
        journal._write = self.write  # type: ignore[method-assign]

    def write(self, rows: Sequence[Row]) -> None:
        self.batches.append(list(rows))
        self.began.set()
        self.go.wait(10)
        self._write(rows)
