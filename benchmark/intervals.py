"""Intervals of single figures: rates and means by the bootstrap, quantiles by order statistics; seeded and bounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
MIN_TURNS = 5
"""Fewer turns than this have a rate and no interval."""
MAX_BATCHES = 200
"""More turns than this are added up in consecutive batches, which bounds the time and keeps neighbours together."""
MOST_LOG = 700.0
"""Logarithm of the largest ratio of an end to its value that is told: numbers end soon beyond it."""
Floats = NDArray[np.float64]


class Turn(NamedTuple):
    """What a part of a run gave: good results (or another amount), and the seconds (or count) that it took."""

    amount: float
    over: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % interval. An end that the samples cannot give is None, and `note` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""

    def scaled(self, factor: float) -> Interval:
        """The same in another unit."""
        value, low, high = (None if end is None else end * factor for end in (self.value, self.low, self.high))
        return Interval(value, low, high, self.note)


def rate(turns: Sequence[Turn], seed: int) -> Interval:
    """Sum of amounts over sum of seconds, with a studentised bootstrap interval of its logarithm.

    Efron and Tibshirani (1993), chapter 12.5. With ten values it covers what it should (94 %), where the percentile
    and BCa intervals cover 90 %: docs/benchmark.md has the figures. Turns without an amount count fully.
    """
    amounts, overs = _batches(turns)
    if overs.sum() <= 0:
        return Interval(None, note="nothing was measured")
    value = float(amounts.sum() / overs.sum())
    if len(turns) < MIN_TURNS or value <= 0:
        return Interval(value, note=f"no interval: fewer than {MIN_TURNS} turns" if value > 0 else "")
    error = float(_log_errors(amounts[None], overs[None])[0])
    if error < 1e-12:
        return Interval(value, value, value)
    low_t, high_t = np.quantile(_pivots(amounts, overs, value, seed), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    if -low_t * error > MOST_LOG:
        return Interval(value, value * math.exp(-high_t * error), note="no upper end: the turns differ too much")
    return Interval(value, value * math.exp(-high_t * error), value * math.exp(-low_t * error))


def quantile(values: Sequence[float], share: float) -> Interval:
    """The quantile and its interval between two order statistics, which is exact whatever the distribution is.

    It is what the percentile bootstrap of a quantile tends to (Hutson and Ernst, 2000), without its error in the tails.
    With fewer than 1 / (1 - share) values there is no figure: the quantile would be the largest value, or beyond it.
    """
    ordered, n = sorted(values), len(values)
    if n < needed_for(share):
        return Interval(None, note=f"n too small: {needed_for(share)} needed")
    low, high = _ranks(n, share)
    return Interval(
        float(np.quantile(np.asarray(ordered), share)),
        ordered[low - 1] if low >= 1 else None,
        ordered[high - 1] if high <= n else None,
        note="" if low >= 1 and high <= n else "n too small for both ends",
    )


def needed_for(share: float) -> int:
    """How many values a quantile needs: one is expected beyond it."""
    return max(2, round(1 / (1 - share)))


def _ranks(n: int, share: float) -> tuple[int, int]:
    """Ranks from 1 of the two ends, 0 and n + 1 where there is none: P(low <= Binomial(n, share) < high) >= 95 %."""
    tail, total, low, high = (1 - CONFIDENCE) / 2, 0.0, 0, n + 1
    for count in range(n + 1):
        total += _binomial(n, count, share)
        if total <= tail:
            low = count + 1
        if total >= 1 - tail:
            high = count + 1
            break
    return low, high


def _binomial(n: int, count: int, share: float) -> float:
    choices = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return math.exp(choices + count * math.log(share) + (n - count) * math.log1p(-share))


def _batches(turns: Sequence[Turn]) -> tuple[Floats, Floats]:
    """Amounts and seconds, added up so that at most MAX_BATCHES are left."""
    table = np.asarray(turns, dtype=np.float64).reshape(-1, 2)
    if len(table) > MAX_BATCHES:
        starts = np.linspace(0, len(table), MAX_BATCHES, endpoint=False).astype(np.intp)
        table = np.add.reduceat(table, starts, axis=0)
    return table[:, 0], table[:, 1]


def _pivots(amounts: Floats, overs: Floats, value: float, seed: int) -> Floats:
    """Studentised logarithms of resampled rates."""
    n = len(amounts)
    chosen = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
    some, over = amounts[chosen], overs[chosen]
    kept = some.sum(axis=1) > 0
    some, over = some[kept], over[kept]
    errors = _log_errors(some, over)
    logs = np.log(some.sum(axis=1) / over.sum(axis=1) / value)
    return np.asarray(logs[errors > 1e-12] / errors[errors > 1e-12])


def _log_errors(amounts: Floats, overs: Floats) -> Floats:
    """Standard errors of the logarithm of each row's ratio of sums, linearised (Cochran 1977, chapter 6)."""
    n, total = amounts.shape[1], amounts.sum(axis=1)
    residuals = amounts - (total / overs.sum(axis=1))[:, None] * overs
    return np.asarray(np.sqrt(n / (n - 1) * (residuals**2).sum(axis=1)) / total)
