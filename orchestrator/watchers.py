"""The broadcasters that watch this node, as they say of themselves: nobody proves an id by watching."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from reelnet.clocks import bounded_skew_s, now_ms


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who watches. `skew_s`: how far its clock is ahead of ours, less the way here; None where it does not say."""

    id: str
    skew_s: float | None = None


class Watchers:
    """Those that watch at this moment. The server bounds how many watches there are."""

    def __init__(self, clock_ms: Callable[[], int] = now_ms) -> None:
        self._clock_ms = clock_ms
        self._watching: dict[int, Watcher] = {}
        self._count = 0

    @contextmanager
    def watching(self, name: str, theirs_ms: int | None) -> Iterator[None]:
        """Counts somebody for the length of the block."""
        self._count += 1
        place = self._count
        skew_s = None if theirs_ms is None else bounded_skew_s((theirs_ms - self._clock_ms()) / 1000)
        self._watching[place] = Watcher(name, skew_s)
        try:
            yield
        finally:
            del self._watching[place]

    def now(self) -> list[Watcher]:
        """Everybody, the newest of each id."""
        return sorted({w.id: w for w in self._watching.values()}.values(), key=lambda w: w.id)

    def skews_s(self) -> tuple[float, float]:
        """How far a clock is ahead, and how far one is behind, at most; 0 when nobody says."""
        told = [0.0, *(w.skew_s for w in self._watching.values() if w.skew_s is not None)]
        return max(told), -min(told)
