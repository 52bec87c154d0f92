"""What this broadcaster has measured of each node: speed and reliability. Failures never improve a score."""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from reelnet.errors import FailureClass
from reelnet.pipelines import Work

WEIGHT_OF_NEWEST = 0.3
OUTCOME_DECAY = 0.95
PRIOR_SUCCESSES = 2.0
LOWEST_REPUTATION = 0.05
BLAMED = frozenset({FailureClass.NODE, FailureClass.POISON, FailureClass.TRANSIENT})
"""Classes that count as a failure of the node."""
REFUSALS = frozenset({FailureClass.BUSY, FailureClass.REFUSED, FailureClass.UNSUPPORTED})
"""Classes that cost nothing once: only a node that refuses most of what it advertises sinks."""
REFUSAL_WEIGHT = 0.1
MOST_BAD = 1 / (1 - OUTCOME_DECAY)
Key = tuple[str, str, str]


@dataclass(slots=True)
class _Record:
    """Decayed counts of one node's outcomes."""

    good: float = 0.0
    bad: float = 0.0


class Scores:
    """Scores of all nodes, by node id."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._seconds_per_unit: dict[Key, float] = {}
        self._ranked: dict[tuple[str, str], list[float]] = {}

    def succeeded(self, node_id: str) -> None:
        """The node delivered, and what it delivered passed the checks."""
        self._count(node_id, good=1.0)

    def failed(self, node_id: str, failure: FailureClass) -> None:
        """An attempt on the node ended as `failure`; classes that are nobody's fault there change nothing."""
        if failure in BLAMED:
            self._count(node_id, bad=1.0)
        elif failure in REFUSALS:
            record = self._records.setdefault(node_id, _Record())
            record.bad = min(MOST_BAD, record.bad + REFUSAL_WEIGHT)  # without decay: it must wash nothing away

    def took(self, node_id: str, pipeline: str, model: str, work: Work, seconds: float) -> None:
        """A successful attempt worked that long, from started to done."""
        measured = seconds / max(1, work.pixel_steps)
        key = (node_id, pipeline, model)
        known = self._seconds_per_unit.get(key)
        newest = measured if known is None else known + WEIGHT_OF_NEWEST * (measured - known)
        self._seconds_per_unit[key] = newest
        ranked = self._ranked.setdefault((pipeline, model), [])
        if known is not None:
            del ranked[bisect.bisect_left(ranked, known)]
        bisect.insort(ranked, newest)

    def reputation(self, node_id: str) -> float:
        """Between 0.05 and 1: the decayed share of successes, with a prior that starts every node at 1."""
        record = self._records.get(node_id, _Record())
        share = (record.good + PRIOR_SUCCESSES) / (record.good + record.bad + PRIOR_SUCCESSES)
        return max(LOWEST_REPUTATION, share)

    def run_s(self, node_id: str, pipeline: str, model: str, work: Work) -> float:
        """Expected seconds of work on the node; an unmeasured node is taken for the model's median."""
        known = self._seconds_per_unit.get((node_id, pipeline, model))
        if known is None:
            ranked = self._ranked.get((pipeline, model), [0.0])
            known = ranked[len(ranked) // 2]
        return known * work.pixel_steps

    def _count(self, node_id: str, good: float = 0.0, bad: float = 0.0) -> None:
        record = self._records.setdefault(node_id, _Record())
        record.good = record.good * OUTCOME_DECAY + good
        record.bad = record.bad * OUTCOME_DECAY + bad
