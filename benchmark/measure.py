"""From samples to figures: pure statistics, without a clock and without the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from benchmark.intervals import Interval, Turn, quantile, rate
from reelnet.pipelines import Work

SHARES = (0.5, 0.9, 0.99)
STAGES = (
    *("total", "download", "accept", "wait", "node_run"),
    *("queue", "load", "denoise", "decode", "encode", "run"),
)
"""The order of the stages that are known; others come after them by name."""
CHECK = "check"
"""The failure of a run whose output is not what was asked."""
CHECK_CODES = frozenset({"bytes", "media_type", "size", "damaged", "frames", "fps", "count", "digest", "over_limits"})
"""Codes of a `node` failure that say the same: a broadcaster, or this program while it received, has checked."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `total_s` is from the request to the end of the job, without a download from a broadcaster.

    `place` numbers the deliveries of a whole measurement in their order, warm-up included. `failure` is a failure
    class, or `check` when what came is not what was asked; None when all is right. `code` says more of it. `findings`
    are what an honest node does not deliver (see `benchmark.lies`). `timings_s` are seconds by stage.
    """

    seed: int
    total_s: float
    node: str = ""
    place: int = 0
    price_nano: int | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)
    cold: bool = False
    failure: str | None = None
    code: str = ""
    findings: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the job was done, and what came is what was asked."""
        return self.failure is None and not self.findings

    @property
    def wrong(self) -> tuple[str, ...]:
        """Why the output is not what was asked, if it came and is not."""
        checked = self.failure == CHECK or (self.failure == "node" and self.code in CHECK_CODES)
        return (self.code,) if checked else self.findings


class Recorded(NamedTuple):
    """What one lane (or one node behind a broadcaster) did. `turns` are good results and seconds, in their order.

    `blocks`, where nodes were measured side by side: the seconds of each block's turn, None where a job failed in it.
    """

    name: str
    warmup: tuple[Sample, ...]
    samples: tuple[Sample, ...]
    turns: tuple[Turn, ...]
    blocks: tuple[float | None, ...] = ()


class Stage(NamedTuple):
    """The spread of one stage, seconds: how many samples had it, p50, p90 and p99, and the longest."""

    n: int
    quantiles: tuple[Interval, ...]
    longest: float


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one node (or of the pool). Stages and price are of the good runs alone.

    `results_per_minute` counts images or clips; `mpix_steps_per_s` megapixel × step (× frames) of work a second.
    `price_nano` is nano-dollars a result, None where nothing is sold. `variation` is the coefficient of variation of
    the good runs' seconds. `first_job_s` is the first job that was sent, warm or not: `first_cold` says which.
    """

    name: str
    runs: int
    good: int
    results_per_minute: Interval
    mpix_steps_per_s: Interval
    price_nano: Interval | None
    stages_s: Mapping[str, Stage]
    failures: Mapping[str, int]
    wrong: Mapping[str, int]
    variation: float | None
    first_job_s: float | None
    first_cold: bool
    warmup_s: tuple[float, ...]


def figures(recorded: Recorded, work: Work, results: int, seed: int) -> Figures:
    """The figures of one node, each of whose runs is `work` and gives `results` images or clips."""
    good = [sample for sample in recorded.samples if sample.good]
    per_second = rate(recorded.turns, seed)
    warmup = recorded.warmup or recorded.samples[:1]
    prices = [Turn(s.price_nano, results) for s in good if s.price_nano is not None]
    delivered = (*recorded.warmup, *recorded.samples)
    return Figures(
        name=recorded.name,
        runs=len(recorded.samples),
        good=len(good),
        results_per_minute=per_second.scaled(60),
        mpix_steps_per_s=per_second.scaled(work.pixel_steps / results / 1e6),
        price_nano=rate(prices, seed) if prices else None,
        stages_s=_stages(good),
        failures=_counted(_failure(sample) for sample in recorded.samples if sample.failure),
        wrong=_counted(word for sample in delivered for word in sample.wrong),
        variation=variation([sample.total_s for sample in good]),
        first_job_s=warmup[0].total_s if warmup else None,
        first_cold=bool(warmup) and warmup[0].cold,
        warmup_s=tuple(sample.total_s for sample in recorded.warmup if sample.failure is None),
    )


def variation(values: Sequence[float]) -> float | None:
    """Standard deviation over mean; None for fewer than three values."""
    if len(values) < 3 or not sum(values):
        return None
    return float(np.std(values, ddof=1) / np.mean(values))


def completions(began: float, ended: Sequence[float], amounts: Sequence[float], at_a_time: int) -> tuple[Turn, ...]:
    """Turns of a closed loop: each is as many completions as there are jobs at a time, and the seconds that they took.

    Completions that come in such bursts are not independent of each other; their sums nearly are (batch means).
    """
    order = sorted(zip(ended, amounts, strict=True))
    turns, last = [], began
    for start in range(0, len(order), at_a_time):
        some = order[start : start + at_a_time]
        turns.append(Turn(sum(amount for _, amount in some), some[-1][0] - last))
        last = some[-1][0]
    return tuple(turns)


def by_node(pool: Recorded, results: int) -> tuple[Recorded, ...]:
    """The nodes behind a broadcaster, each from the samples that name it; turns are the broadcaster's `node_run`.

    A job that failed names no node.
    """
    found = []
    for node in sorted({sample.node for sample in (*pool.warmup, *pool.samples) if sample.node != pool.name}):
        warmup, samples = (tuple(s for s in part if s.node == node) for part in (pool.warmup, pool.samples))
        turns = tuple(Turn(float(s.good * results), s.timings_s.get("node_run", s.total_s)) for s in samples)
        found.append(Recorded(node, warmup, samples, turns))
    return tuple(found)


def _failure(sample: Sample) -> str:
    return f"{sample.failure}/{sample.code}" if sample.code else str(sample.failure)


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(Counter(words).most_common())


def _stages(samples: Sequence[Sample]) -> dict[str, Stage]:
    """Only the runs that had the stage count for it: a warm run has no load of 0 s."""
    known = {name: place for place, name in enumerate(STAGES)}
    rows = [{**sample.timings_s, "total": sample.total_s} for sample in samples]
    names = sorted({name for row in rows for name in row}, key=lambda n: (known.get(n, len(known)), n))
    return {name: _stage([row[name] for row in rows if name in row]) for name in names}


def _stage(values: Sequence[float]) -> Stage:
    return Stage(len(values), tuple(quantile(values, share) for share in SHARES), max(values))
