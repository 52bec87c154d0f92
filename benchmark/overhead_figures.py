"""The figures of the overhead benchmark: quantiles, medians over rounds, ratios, and what they have to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmark.overhead_load import Sample

KILO, MEGA = 1_000, 1_000_000


@dataclass(frozen=True, slots=True)
class Turn:
    """One subject's turn in one round: one client, then many; CPU seconds of its servers by role under many."""

    subject: str
    size: int
    alone: Sample
    crowd: Sample
    cpu_s: Mapping[str, float]

    @property
    def cpu_ms_per_job(self) -> float:
        """CPU of all servers for a job, milliseconds."""
        return sum(self.cpu_s.values()) / self.crowd.served * 1e3


@dataclass(frozen=True, slots=True)
class Figure:
    """Something that is compared: `of` gives it for a turn."""

    name: str
    of: Callable[[Turn], float]


P50 = Figure("p50 at 1", lambda turn: quantile(turn.alone.latencies_s, 0.5))
RATE = Figure("requests/s at 64", lambda turn: turn.crowd.rate)
CPU = Figure("CPU a request at 64", lambda turn: turn.cpu_ms_per_job)
FIGURES = (P50, RATE, CPU)


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio of product to contract floor has to be."""

    figure: Figure
    size: int
    bound: float
    at_most: bool

    def met(self, ratio: float) -> bool:
        """Whether a ratio is good enough."""
        return ratio <= self.bound if self.at_most else ratio >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


TARGETS = (Target(P50, KILO, 1.6, True), Target(RATE, KILO, 0.6, False), Target(P50, MEGA, 1.3, True))


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio by round: its median, and between what it was."""

    median: float
    low: float
    high: float


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above (nearest rank). Raises ValueError for none."""
    if not values:
        raise ValueError("no values have no quantile")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def ratio(turns: Iterable[Turn], figure: Figure, size: int, over: str, under: str) -> Ratio:
    """`over` to `under`, round by round: what slows the machine for a while slows both."""
    chosen = [turn for turn in turns if turn.size == size]
    above, below = ([figure.of(turn) for turn in chosen if turn.subject == name] for name in (over, under))
    found = [a / b if b else math.inf for a, b in zip(above, below, strict=True)]
    return Ratio(median(found), min(found), max(found))


def pooled(turns: Iterable[Turn], share: float, pick: Callable[[Turn], Sample]) -> float:
    """A quantile of the latencies of several turns together, milliseconds."""
    return quantile([value for turn in turns for value in pick(turn).latencies_s], share) * 1e3


def target_of(figure: Figure, size: int) -> Target | None:
    """What the ratio of a figure has to be; None where nothing is asked of it."""
    return next((target for target in TARGETS if target.figure is figure and target.size == size), None)


def size_name(size: int) -> str:
    """1000 as 1 KB, 1000000 as 1 MB."""
    for unit, name in ((MEGA, "MB"), (KILO, "KB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"
