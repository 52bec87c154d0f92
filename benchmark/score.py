"""A node's score, 0 to 100, and its parts; docs/benchmark.md says why it has this form."""

from __future__ import annotations

from dataclasses import dataclass

from benchmark.lies import REASONS
from benchmark.measure import Figures
from benchmark.reference import Reference

THROUGHPUT_POWER = 0.5
TAIL_POWER = 0.25
_WRONG = "the output is not what was asked"


@dataclass(frozen=True, slots=True)
class Score:
    """score = 100 × correctness × success × throughput^½ × tail^¼; each part is from 0 to 1.

    `throughput` is the rate over the reference's, at most 1; `tail` the quotient that `tail_of` names; `success` the
    share of runs that went well; `correctness` 1, or 0 after a single output that no honest node delivers. `reason`
    says why a score is 0.
    """

    total: float
    throughput: float
    tail: float
    tail_of: str
    success: float
    correctness: float
    reason: str = ""


def score(figures: Figures, reference: Reference | None) -> Score:
    """The score of one node."""
    tail, tail_of = _tail(figures)
    measured = figures.mpix_steps_per_s.value or 0.0
    throughput = min(1.0, measured / reference.mpix_steps_per_s) if reference else 0.0
    success = figures.good / figures.runs if figures.runs else 0.0
    correctness = 0.0 if figures.wrong else 1.0
    total = 100 * correctness * success * throughput**THROUGHPUT_POWER * tail**TAIL_POWER
    return Score(round(total, 1), throughput, tail, tail_of, success, correctness, _reason(figures))


def _tail(figures: Figures) -> tuple[float, str]:
    """Median over the farthest quantile that the number of runs allows."""
    stage = figures.stages_s.get("total")
    if stage is None or not stage.longest:
        return 0.0, "no good run"
    p50, p90, p99 = (quantile.value for quantile in stage.quantiles)
    if p50 is None:
        return 1.0, "one run"
    if p99 is not None:
        return p50 / p99, "p50/p99"
    return (p50 / p90, "p50/p90") if p90 is not None else (p50 / stage.longest, "p50/longest")


def _reason(figures: Figures) -> str:
    if figures.wrong:
        return "; ".join(f"{REASONS.get(word, f'{_WRONG} ({word})')}: {n} times" for word, n in figures.wrong.items())
    return "" if figures.good else "no job went well"
