"""From samples to figures: pure statistics, without a clock and without the network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from reelnet.pipelines import Work

STAGES = ("queue", "load", "denoise", "decode", "encode", "run", "node_run", "download")
"""The order of the stages that are known; others come after them by name."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `total_s` is from the request to the whole answer, without the download.

    `failure` is a failure class, or `check` when what came is not what was asked; None when all is right. `code` says
    more of it. `marks` are soft findings (constant, still), no failure. `timings_s` are seconds by stage as the answer
    says them, and `download` as measured here.
    """

    seed: int
    total_s: float
    node: str = ""
    price_nano: int = 0
    timings_s: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None
    code: str = ""
    marks: tuple[str, ...] = ()


class Spread(NamedTuple):
    """Quantiles of one figure."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class NodeShare:
    """What one node did: runs that went well, and the spread of their total seconds."""

    runs: int
    total_s: Spread


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a benchmark. Spreads and prices are of the runs that went well; None or empty without any.

    `results_per_minute` counts images or clips; `mpix_steps_per_s` megapixel × step (× frames) of work a second. Both
    are over `wall_s`, from the first request to the last answer. `price_nano` is nano-dollars a result, the mean.
    """

    runs: int
    good: int
    wall_s: float
    results_per_minute: float
    mpix_steps_per_s: float
    price_nano: float | None
    total_s: Spread | None
    failures: Mapping[str, int] = field(default_factory=dict)
    marks: Mapping[str, int] = field(default_factory=dict)
    stages_s: Mapping[str, Spread] = field(default_factory=dict)
    nodes: Mapping[str, NodeShare] = field(default_factory=dict)


def summarize(samples: Sequence[Sample], wall_s: float, work: Work, results: int = 1) -> Summary:
    """The figures of `samples`, each of which is `work` and gives `results` images or clips."""
    good = [sample for sample in samples if sample.failure is None]
    return Summary(
        runs=len(samples),
        good=len(good),
        wall_s=wall_s,
        results_per_minute=_rate(len(good) * results, wall_s) * 60,
        mpix_steps_per_s=_rate(len(good) * work.pixel_steps / 1e6, wall_s),
        price_nano=sum(s.price_nano for s in good) / (len(good) * results) if good else None,
        total_s=spread([s.total_s for s in good]) if good else None,
        failures=_counted(f"{s.failure}/{s.code}" if s.code else s.failure for s in samples if s.failure),
        marks=_counted(mark for s in good for mark in s.marks),
        stages_s=_stages(good),
        nodes=_nodes(good),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, between two of them by linear interpolation.

    Hyndman and Fan (1996), type 7, which is numpy's default. Raises ValueError for no values or another share.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError("a quantile needs values, and a share from 0 to 1")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    low, high = ordered[below], ordered[math.ceil(place)]
    return min(high, low + (high - low) * (place - below))


def spread(values: Sequence[float]) -> Spread:
    """p50, p90 and p99. Raises ValueError for no values."""
    return Spread(*(quantile(values, share) for share in (0.5, 0.9, 0.99)))


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())


def _stages(samples: Sequence[Sample]) -> dict[str, Spread]:
    """Only the runs that had the stage count for it: a warm run has no load of 0 s."""
    known = {name: place for place, name in enumerate(STAGES)}
    names = sorted({name for s in samples for name in s.timings_s}, key=lambda n: (known.get(n, len(known)), n))
    return {name: spread([s.timings_s[name] for s in samples if name in s.timings_s]) for name in names}


def _nodes(samples: Sequence[Sample]) -> dict[str, NodeShare]:
    totals: dict[str, list[float]] = {}
    for sample in samples:
        totals.setdefault(sample.node, []).append(sample.total_s)
    return {node: NodeShare(len(totals[node]), spread(totals[node])) for node in sorted(totals)}
