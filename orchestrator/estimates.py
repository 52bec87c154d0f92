"""When a job begins that has others before it, and since when jobs are refused for their time."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence


class Refused:
    """Since when jobs of a kind are refused for their time alone, with none of that kind taken. Times are a clock's."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}

    def add(self, kind: Hashable, now: float) -> None:
        """A job was refused for its time."""
        self._since.setdefault(kind, now)

    def clear(self, kind: Hashable) -> None:
        """A job was taken: what it takes will be seen."""
        self._since.pop(kind, None)

    def for_s(self, kind: Hashable, now: float) -> float:
        """Seconds since the first refusal after the last job that was taken; 0 without one."""
        return now - self._since.get(kind, now)


def start_s(free_in_s: Sequence[float], jobs: int, each_s: float) -> float:
    """Seconds until a job begins that has `jobs` of `each_s` before it, each given to the device that is free first.

    `free_in_s` is when each device is free, one at least. The same as handing them out one by one, at the cost of a
    sort of the devices: whole rounds are filled like water, and what is left, less than a job a device, is handed out.
    """
    if each_s <= 0:
        return min(free_in_s)
    level = _level(sorted(free_in_s), jobs * each_s)
    rounds = [int(max(0.0, level - free) / each_s) for free in free_in_s]
    free_at = [free + done * each_s for free, done in zip(free_in_s, rounds, strict=True)]
    heapq.heapify(free_at)
    for _ in range(min(len(free_at), jobs - sum(rounds))):
        heapq.heapreplace(free_at, free_at[0] + each_s)
    return free_at[0]


def _level(free_in_s: Sequence[float], work_s: float) -> float:
    """How high so much work stands when it is poured on devices that are free from these moments on, in order."""
    filled = 0.0
    for count, free in enumerate(free_in_s, 1):
        filled += free
        level = (filled + work_s) / count
        if count == len(free_in_s) or level <= free_in_s[count]:
            return level
    raise ValueError("no device, no level")
