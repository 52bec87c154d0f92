"""What a measurement says: figures, scores and ranks of nodes, with warnings where noise says more than they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.comparison import Pair, blocks_needed, compare_paired, compare_unpaired, drift, ranks
from benchmark.intervals import MIN_TURNS, Interval
from benchmark.lane import Kind
from benchmark.machine import Machine
from benchmark.measure import Figures, Recorded, by_node, figures
from benchmark.measurement import Measurement
from benchmark.reference import Reference, best_of
from benchmark.score import Score, score

BUSY_SHARE = 0.25
NOISY_VARIATION = 0.25
WIDE = 0.15
"""Half an interval's width over its value from which on it is called wide."""
DRIFTED = 1.05
AGREED_SHARE = 0.5
MAX_UNCLEAR = 3


@dataclass(frozen=True, slots=True)
class NodeResult:
    """One node: its figures, its score and its rank (1 + how many are shown to be faster; None when not compared)."""

    figures: Figures
    score: Score
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """The whole result. `pool` is the broadcaster's, when one was measured; `pairs` compare every two nodes."""

    measurement: Measurement
    reference: Reference | None
    pool: NodeResult | None
    nodes: tuple[NodeResult, ...]
    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether every run went well and every output is what was asked."""
        results = (*self.nodes, *([self.pool] if self.pool else []))
        return all(r.figures.good == r.figures.runs and not r.figures.wrong for r in results) and bool(results)


def assess(measured: Measurement) -> Assessment:
    """The figures, scores, ranks and warnings of a measurement. Nodes come in the order of their ranks."""
    scenario, pool = measured.scenario, None
    recorded = measured.recorded
    if measured.kind == "broadcaster":
        pool, recorded = measured.recorded[0], by_node(measured.recorded[0], scenario.results)
    every = [figures(one, scenario.work, scenario.results, scenario.request.seed) for one in recorded]
    whole = figures(pool, scenario.work, scenario.results, scenario.request.seed) if pool else None
    compared, pairs = _compare(measured.kind, recorded, scenario.request.seed)
    reference = measured.reference or best_of([f.mpix_steps_per_s.value for f in every or ([whole] if whole else [])])
    places = ranks(compared, pairs) if len(compared) > 1 else {}
    nodes = [NodeResult(one, score(one, reference), places.get(one.name)) for one in every]
    nodes.sort(key=lambda node: (node.rank or len(every) + 1, -(node.figures.results_per_minute.value or 0)))
    return Assessment(
        measured,
        reference,
        NodeResult(whole, score(whole, reference)) if whole else None,
        tuple(nodes),
        pairs,
        tuple(_warnings(measured, recorded, [whole] if whole and len(every) == 1 else every, pairs)),
    )


def _compare(kind: Kind, recorded: Sequence[Recorded], seed: int) -> tuple[list[str], tuple[Pair, ...]]:
    """Who was compared, and every two of them: by block, or behind a broadcaster by its own clock."""
    if kind != "broadcaster":
        names = [one.name for one in recorded if any(one.blocks)]
        return names, compare_paired({one.name: one.blocks for one in recorded if one.name in names}, seed)
    seconds = {one.name: [s.timings_s.get("node_run", s.total_s) for s in one.samples if s.good] for one in recorded}
    enough = {name: values for name, values in seconds.items() if len(values) >= MIN_TURNS}
    return list(enough), compare_unpaired(enough, seed)


def _warnings(
    measured: Measurement, recorded: Sequence[Recorded], every: Sequence[Figures], pairs: Sequence[Pair]
) -> list[str]:
    return [
        *_of_machine(measured.machine),
        *(f"{measured.name_of(one.name)}: {text}" for one in every for text in _of_noise(one)),
        *_of_drift(measured),
        *_of_blocks(measured, recorded),
        *_of_pairs(measured, pairs),
        *_of_agreement(measured),
    ]


def _of_machine(machine: Machine) -> list[str]:
    if machine.busy is None or machine.busy < BUSY_SHARE:
        return []
    return [f"this machine was busy before the measurement began ({machine.busy:.0%} of its CPU): figures are too low"]


def _of_noise(one: Figures) -> list[str]:
    found = []
    if one.variation is not None and one.variation > NOISY_VARIATION:
        found.append(f"its runs vary by {one.variation:.0%} (standard deviation over mean)")
    if (wide := half_width(one.results_per_minute)) and wide > WIDE:
        found.append(f"throughput is known to ±{wide:.0%} only; more --runs make that narrower")
    return found


def _of_drift(measured: Measurement) -> list[str]:
    found = []
    for one in measured.recorded:
        pair = drift([turn.over for turn in one.turns], measured.scenario.request.seed)
        if pair and pair.verdict in ("faster", "slower") and max(pair.ratio, 1 / pair.ratio) > DRIFTED:
            change = f"{max(pair.ratio, 1 / pair.ratio) - 1:.0%} {'slower' if pair.ratio > 1 else 'faster'}"
            found.append(f"{measured.name_of(one.name)}: its second half was {change} than its first: no steady state")
    return found


def _of_blocks(measured: Measurement, recorded: Sequence[Recorded]) -> list[str]:
    """Where there is too little to compare."""
    if measured.kind == "broadcaster":
        few = [measured.name_of(one.name) for one in recorded if len(one.samples) < MIN_TURNS]
        return [f"the broadcaster gave {name} fewer than {MIN_TURNS} jobs: it is not ranked" for name in few]
    needed, most = blocks_needed(len(recorded)), max((len(one.blocks) for one in recorded), default=0)
    if len(recorded) < 2 or most >= needed:
        return []
    return [f"{most} blocks cannot tell {len(recorded)} nodes apart, whatever they do: {needed} are needed"]


def _of_pairs(measured: Measurement, pairs: Sequence[Pair]) -> list[str]:
    """Pairs of which noise hides who is faster."""
    unclear = [pair for pair in pairs if pair.verdict == "unclear"]
    found = []
    for pair in unclear[:MAX_UNCLEAR]:
        names = f"{measured.name_of(pair.left)} and {measured.name_of(pair.right)}"
        found.append(f"noise hides which of {names} is faster: ratio {pair.ratio:.2f} ({ends(pair)})")
    if len(unclear) > MAX_UNCLEAR:
        found.append(f"noise hides it for {len(unclear) - MAX_UNCLEAR} more pairs of nodes")
    return found


def _of_agreement(measured: Measurement) -> list[str]:
    return [
        f"{measured.name_of(node)}: {1 - share:.0%} of its outputs differ from what others made of the same jobs"
        for node, share in measured.agreement.items()
        if share < AGREED_SHARE
    ]


def half_width(interval: Interval) -> float | None:
    """Half the interval's width over its value; None where an end is missing."""
    if interval.low is None or interval.high is None or not interval.value:
        return None
    return (interval.high - interval.low) / 2 / interval.value


def ends(pair: Pair) -> str:
    """Both ends of a ratio's interval."""
    low, high = ("?" if value is None else f"{value:.2f}" for value in (pair.low, pair.high))
    return f"{low}–{high}"
