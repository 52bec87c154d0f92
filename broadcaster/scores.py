"""What this broadcaster has measured of each node: speed and reliability. Failures never improve a score."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from statistics import median_high

from reelnet.errors import FailureClass
from reelnet.estimates import Estimates
from reelnet.pipelines import Work

OUTCOME_DECAY = 0.95
PRIOR_SUCCESSES = 2.0
LOWEST_REPUTATION = 0.05
BLAMED = frozenset({FailureClass.NODE, FailureClass.POISON, FailureClass.TRANSIENT})
"""Classes that count as a failure of the node."""
REFUSALS = frozenset({FailureClass.BUSY, FailureClass.REFUSED, FailureClass.UNSUPPORTED})
"""Classes that cost nothing once: only a node that refuses most of what it advertises sinks."""
REFUSAL_WEIGHT = 0.1
MOST_BAD = 1 / (1 - OUTCOME_DECAY)
Offer = tuple[str, str]
"""(pipeline, model)."""
KEPT_TIMES = 8192
"""(node, pipeline, model) whose run times are remembered."""
KEPT_OFFERS = 1024
PEERS = 31
"""An unmeasured node is taken for the median of so many, the ones that were measured last."""
KEPT_USUAL = 64
"""Amounts of work for which that median is remembered until the next measurement."""


@dataclass(slots=True)
class _Record:
    """Decayed counts of one node's outcomes."""

    good: float = 0.0
    bad: float = 0.0


class _Peers:
    """The nodes that were measured last at an offer, and their medians by amount of work as far as they were asked."""

    def __init__(self) -> None:
        self.nodes: OrderedDict[str, None] = OrderedDict()
        self.usual_s: dict[int, float] = {}

    def measured(self, node_id: str) -> None:
        """The node is the newest."""
        self.usual_s.clear()
        self.nodes[node_id] = None
        self.nodes.move_to_end(node_id)
        if len(self.nodes) > PEERS:
            self.nodes.popitem(last=False)


class Scores:
    """Scores of all nodes, by node id."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._times: Estimates[tuple[str, str, str]] = Estimates(KEPT_TIMES)
        self._peers: OrderedDict[Offer, _Peers] = OrderedDict()

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
        self._times.observe((node_id, pipeline, model), work.pixel_steps, seconds)
        self._peers.setdefault((pipeline, model), _Peers()).measured(node_id)
        self._peers.move_to_end((pipeline, model))
        if len(self._peers) > KEPT_OFFERS:
            self._peers.popitem(last=False)

    def reputation(self, node_id: str) -> float:
        """Between 0.05 and 1: the decayed share of successes, with a prior that starts every node at 1."""
        record = self._records.get(node_id, _Record())
        share = (record.good + PRIOR_SUCCESSES) / (record.good + record.bad + PRIOR_SUCCESSES)
        return max(LOWEST_REPUTATION, share)

    def run_s(self, node_id: str, pipeline: str, model: str, work: Work) -> float:
        """Expected seconds of work on the node; an unmeasured node is taken for the model's median."""
        known = self._times.seconds((node_id, pipeline, model), work.pixel_steps)
        return self._usual_s(pipeline, model, work.pixel_steps) if known is None else known

    def _usual_s(self, pipeline: str, model: str, units: int) -> float:
        """The median over the nodes that were measured last; 0 where none was."""
        if (peers := self._peers.get((pipeline, model))) is None:
            return 0.0
        if (usual_s := peers.usual_s.get(units)) is None:
            known = [self._times.seconds((node_id, pipeline, model), units) for node_id in peers.nodes]
            usual_s = median_high([seconds for seconds in known if seconds is not None] or [0.0])
            if len(peers.usual_s) < KEPT_USUAL:
                peers.usual_s[units] = usual_s
        return usual_s

    def _count(self, node_id: str, good: float = 0.0, bad: float = 0.0) -> None:
        record = self._records.setdefault(node_id, _Record())
        record.good = record.good * OUTCOME_DECAY + good
        record.bad = record.bad * OUTCOME_DECAY + bad
