"""How long a job will take here, from how long jobs took, and when a job begins that has others before it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from reelnet.pipelines import Work

WEIGHT_OF_NEWEST = 0.3


class Estimates:
    """An exponentially weighted mean of seconds per pixel·step for each (pipeline, model)."""

    def __init__(self) -> None:
        self._seconds_per_unit: dict[tuple[str, str], float] = {}

    def observe(self, pipeline: str, model: str, work: Work, seconds: float) -> None:
        """A job of that much work took that long on its device."""
        measured = seconds / max(1, work.pixel_steps)
        key = (pipeline, model)
        known = self._seconds_per_unit.get(key, measured)
        self._seconds_per_unit[key] = known + WEIGHT_OF_NEWEST * (measured - known)

    def expected_s(self, pipeline: str, model: str, work: Work) -> float:
        """Estimated seconds on the device; 0 until one job of the kind has been seen."""
        return self._seconds_per_unit.get((pipeline, model), 0.0) * work.pixel_steps


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
