"""What is new in a log of which only the last lines are given, again and again."""

from __future__ import annotations

from collections.abc import Iterator

from reelnet.errors import printable

LINE_CHARS = 4000
GAP = "… (lines in between were not read)"


class LogTail:
    """One slot's log, `lines` at a time. `prefix` is set before each line when there are several slots."""

    def __init__(self, prefix: str, lines: int) -> None:
        self.lines = lines
        self._prefix = f"{prefix} | " if prefix else ""
        self._seen: list[str] | None = None
        self._noted = ""

    def new_lines(self, text: str) -> Iterator[str]:
        """The lines of the newest `text` that were not in the one before, safe for a terminal."""
        now = text.splitlines()
        fresh, gap = (now, False) if self._seen is None else fresh_lines(self._seen, now)
        self._seen = now
        if gap:
            yield self._prefix + GAP
        for line in fresh:
            yield self._prefix + printable(line, LINE_CHARS)

    def note(self, reason: str) -> Iterator[str]:
        """Why there is no log now, told once."""
        if reason != self._noted:
            self._noted = reason
            yield f"{self._prefix}({printable(reason, LINE_CHARS)})"


def fresh_lines(before: list[str], now: list[str]) -> tuple[list[str], bool]:
    """What of `now` comes after `before`, two windows on one growing log; and whether lines between them are lost."""
    for shared in range(min(len(before), len(now)), 0, -1):
        if before[-shared:] == now[:shared]:
            return now[shared:], False
    return now, bool(before and now)
