"""What a slot has done lately: jobs an hour, and how long they took."""

from __future__ import annotations

import math
from collections import deque

HOUR_S = 3600.0
KEPT_JOBS = 10_000


class History:
    """The jobs of one slot in the last hour. Times are a monotonic clock's, seconds."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[float, float]] = deque(maxlen=KEPT_JOBS)

    def add(self, now: float, seconds: float) -> None:
        """A job has ended that took `seconds` on the device."""
        self._jobs.append((now, seconds))

    def jobs_per_hour(self, now: float) -> float:
        """Jobs of the last hour."""
        self._forget(now)
        return float(len(self._jobs))

    def quantile_s(self, share: float, now: float) -> float | None:
        """The time that `share` of the last hour's jobs did not exceed, seconds; None without jobs."""
        self._forget(now)
        took = sorted(seconds for _, seconds in self._jobs)
        return took[max(0, math.ceil(share * len(took)) - 1)] if took else None

    def _forget(self, now: float) -> None:
        while self._jobs and now - self._jobs[0][0] > HOUR_S:
            self._jobs.popleft()
