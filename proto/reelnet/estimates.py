"""How long a job will take, from how long jobs took: a constant and a slope, by medians, which no one job moves much.

Pure: `observe` keeps figures, `estimate` computes. Work is in pixel·steps, time in seconds on the device.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from statistics import median_low
from typing import Generic, TypeVar

KEPT_JOBS = 32
"""Jobs of a kind that an estimate is made from, the newest. After a change of speed half of them are enough."""
UNREAD_SHARE = 8
"""A line is good until so large a part of its jobs is new: it costs a slope for each two jobs."""
KEPT_KINDS = 512
FIXED_UNITS = 2_000_000
"""A job's fixed part is taken for the time of so many pixel·steps, where jobs of one size say nothing of it.

That is two steps of a megapixel: text encoder, VAE and coding of a picture take about as long, on a card and on a CPU.
"""
SAME_SIZE = 1.1
"""Two jobs whose work differs by less than this factor say nothing of the slope: what they differ in is chance."""
FASTEST = 10
"""One job in so many is faster than the least time that an estimate gives."""
LONGEST_S = 86_400.0
MOST_UNITS = 2**53
Kind = TypeVar("Kind", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that a job will take. `seconds` is the middle, `least_s` what it takes at the least by what is known.

    Both are 0 where nothing is known.
    """

    seconds: float = 0.0
    least_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """constant + slope · units, both 0 or more.

    `fast`: time of a fast job by that of a usual one, 0 to 1. `low`, `high`: of the sizes that were seen, without the
    smallest and the largest job: one alone is no proof that its size takes so long.
    """

    constant: float
    slope: float
    fast: float
    low: int
    high: int

    def seconds(self, units: int) -> float:
        """The middle, for work of any size."""
        return min(LONGEST_S, self.constant + self.slope * units)

    def least_s(self, units: int) -> float:
        """The least: beyond the sizes that were seen, doubt grows with the distance.

        A smaller job takes no less than its share of the smallest. A larger one takes no less than the largest, and
        than the line divided by the root of how many times it is as large.
        """
        most = self.seconds(units)
        if units > self.high:
            most = max(self.seconds(self.high), most * math.sqrt(self.high / units))
        if units < self.low:
            most = min(most, self.seconds(self.low) * units / self.low)
        return self.fast * most


class RunTimes:
    """The newest jobs of one kind. A line through them is computed when it is asked for, and kept for a few jobs."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[int, float]] = deque(maxlen=KEPT_JOBS)
        self._line: Line | None = None
        self._unread = 0

    def observe(self, units: int, seconds: float) -> bool:
        """A job of that much work took that long; whether estimates are others from now on.

        A time that is none (negative, infinite, no number) is not kept.
        """
        if not 0 <= seconds < math.inf:
            return False
        self._jobs.append((_bounded(units), min(seconds, LONGEST_S)))
        self._unread += 1
        if changed := self._unread * UNREAD_SHARE > len(self._jobs):
            self._line = None
        return changed

    def seconds(self, units: int) -> float | None:
        """The middle of what a job of that much work takes; None where nothing is known."""
        line = self._line or self._fitted()
        return line.seconds(_bounded(units)) if line else None

    def estimate(self, units: int) -> Estimate:
        """What a job of that much work takes."""
        if (line := self._line or self._fitted()) is None:
            return Estimate()
        units = _bounded(units)
        return Estimate(line.seconds(units), line.least_s(units))

    @property
    def largest(self) -> int:
        """The units of the largest job that is kept; 0 without one."""
        return max((units for units, _ in self._jobs), default=0)

    def _fitted(self) -> Line | None:
        """A line through the jobs that are here now; None where there are none."""
        self._line, self._unread = fit(sorted(self._jobs)) if self._jobs else None, 0
        return self._line


class Estimates(Generic[Kind]):
    """Run times by kind, of so many kinds; those that no job was observed of for the longest time go first."""

    def __init__(self, kept_kinds: int = KEPT_KINDS) -> None:
        self._kept_kinds = kept_kinds
        self._kinds: OrderedDict[Kind, RunTimes] = OrderedDict()

    def observe(self, kind: Kind, units: int, seconds: float) -> bool:
        """A job of that kind and so much work took that long; whether estimates of it are others from now on."""
        changed = self._kinds.setdefault(kind, RunTimes()).observe(units, seconds)
        self._kinds.move_to_end(kind)
        if len(self._kinds) > self._kept_kinds:
            self._kinds.popitem(last=False)
        return changed

    def seconds(self, kind: Kind, units: int) -> float | None:
        """The middle of what a job takes; None where nothing is known."""
        return times.seconds(units) if (times := self._kinds.get(kind)) else None

    def largest(self, kind: Kind) -> int:
        """The units of the largest job that is known; 0 without one."""
        return times.largest if (times := self._kinds.get(kind)) else 0

    def estimate(self, kind: Kind, units: int) -> Estimate:
        """What a job takes."""
        return times.estimate(units) if (times := self._kinds.get(kind)) else Estimate()


def fit(jobs: list[tuple[int, float]]) -> Line:
    """A line through jobs, (units, seconds) in the order of their units, one at least, by Theil and Sen's estimator.

    Its slope is the median of the slopes between two jobs of different size, and of as many as there are jobs that
    have the usual fixed part: a single job of another size does not turn the line, a few do. Of an even number the
    lower of the middle two counts, so that of two jobs a wrong one is no half of the truth.
    """
    usual = median_low([seconds / (units + FIXED_UNITS) for units, seconds in jobs])
    between = [
        (seconds - less_s) / (units - less)
        for i, (less, less_s) in enumerate(jobs)
        for units, seconds in jobs[i + 1 :]
        if units > less * SAME_SIZE
    ]
    slope = max(0.0, median_low(between + [usual] * len(jobs)))
    constant = median_low([seconds - slope * units for units, seconds in jobs])
    if constant < 0:
        constant, slope = 0.0, median_low([seconds / units for units, seconds in jobs])
    return Line(constant, slope, _fast(jobs, constant, slope), jobs[1 % len(jobs)][0], jobs[-2 % len(jobs)][0])


def _fast(jobs: list[tuple[int, float]], constant: float, slope: float) -> float:
    """How a fast job's time compares with the line's, 1 at most."""
    usual = [(seconds, constant + slope * units) for units, seconds in jobs]
    shares = sorted(seconds / line_s if line_s > 0 else 1.0 for seconds, line_s in usual)
    return min(1.0, shares[len(shares) // FASTEST])


def _bounded(units: int) -> int:
    return min(max(1, units), MOST_UNITS)
