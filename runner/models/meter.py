"""How far a transfer is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

LINE_S = 10.0
"""Seconds between two lines."""


class Meter(Protocol):
    """Hears of bytes. Entered before the first, left after the last."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def expect(self, total: int) -> None:
        """All bytes that there are, those that are there already included."""

    def begin(self, name: str) -> None:
        """The file that follows."""

    def advance(self, count: int) -> None:
        """Bytes more; fewer than none where a file is begun anew."""

    def note(self, text: str) -> None:
        """Something worth a line."""


class Bar:
    """One bar over all files."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def expect(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def begin(self, name: str) -> None:
        self._progress.update(self._task, description=name)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)


class Lines:
    """A line for each file, and one every ten seconds."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._told = clock()
        self._total = self._done = 0
        self._name = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._total:
            self.begin("")

    def expect(self, total: int) -> None:
        self._total = total

    def begin(self, name: str) -> None:
        self._name = name
        self._tell()

    def advance(self, count: int) -> None:
        self._done += count
        if self._clock() - self._told >= LINE_S:
            self._tell()

    def note(self, text: str) -> None:
        self._write(text)

    def _tell(self) -> None:
        self._told = self._clock()
        share = 100 * self._done // self._total if self._total else 100
        self._write(f"{share:3d} %  {decimal(self._done)} of {decimal(self._total)}  {self._name}")


def meter_on(console: Console) -> Bar | Lines:
    """A bar where somebody looks, lines where a file is written."""
    if console.is_terminal:
        return Bar(console)
    return Lines(lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True))
