"""Passes the runners' metrics on: Prometheus cannot reach a runner, so the node asks its runners when it is asked.

The series of a node's runners are summed by pipeline, model and stage: one for each slot would multiply every
histogram. A runner is believed no more than has to be: its answer is bounded in bytes and seconds, only what
`reelnet.runner_metrics` defines is read from it, labels outside their sets become `other`, and its model is the slot's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from orchestrator.node_metrics import MODEL, SCRAPES
from orchestrator.runner_client import NO_ANSWER, RunnerClient
from orchestrator.runner_state import RunnerState
from orchestrator.shelter import sheltered
from orchestrator.supervisor import Supervisor
from reelnet.errors import FailureClass, printable
from reelnet.metrics import NO_CLASS, OTHER, OUTCOMES, SECONDS, Family, Labels
from reelnet.pipelines import PIPELINES
from reelnet.runner_metrics import JOBS, STAGE_SECONDS, STAGES

FRESH_S = 1.0
"""A reading is good for so long: two Prometheus servers do not make twice the work."""
LARGEST = 2.0**53
ASKED = frozenset({RunnerState.READY, RunnerState.BUSY})
BOUNDS = (*map(str, map(float, SECONDS)), "+Inf")
"""Upper bounds of buckets, as the client library writes them."""
VALUES: Mapping[str, frozenset[str]] = {
    "pipeline": frozenset(PIPELINES),
    "stage": frozenset(STAGES),
    "outcome": frozenset(OUTCOMES),
    "class": frozenset({NO_CLASS, *FailureClass}),
}
"""What a runner may say in each label."""
Series = tuple[str, Labels]
"""A family's name, and the values of its labels in their order."""
Amounts = tuple[float, ...]
"""A counter's value alone; or a histogram's buckets, cumulative and with +Inf, and then its sum."""
Reading = dict[Series, Amounts]
SIZES = {JOBS.name: 1, STAGE_SECONDS.name: len(BOUNDS) + 1}
log = structlog.get_logger()


def passed_on(family: Family) -> Family:
    """A runner's family as its node shows it: with the model, which is the slot's."""
    return replace(family, labels=(family.labels[0], MODEL, *family.labels[1:]))


FAMILIES = tuple(passed_on(family) for family in (JOBS, STAGE_SECONDS))


def read(text: bytes) -> Reading:
    """What a runner has counted. Raises ValueError for what no runner of ours says; unknown metrics are skipped."""
    parts: dict[tuple[str, Labels], dict[int, float]] = {}
    for sample in _samples(text):
        if place := _place(sample):
            family, index = place
            parts.setdefault((family.name, _labels(family, sample)), {})[index] = _amount(sample.value)
    reading: Reading = {}
    for (name, labels), amounts in parts.items():
        _add(reading, {(name, _known(name, labels)): _whole(name, amounts)})
    return reading


@dataclass(slots=True)
class Tally:
    """What one slot's runners have counted, over all their lives: a restarted one begins at zero, the sum does not."""

    past: Reading = field(default_factory=dict)
    last: Reading = field(default_factory=dict)
    life: object = None

    def take(self, life: object, reading: Reading) -> None:
        """The next reading, of this life of the slot's runner."""
        if life is not self.life or _fell(self.last, reading):
            _add(self.past, self.last)
        self.life, self.last = life, reading

    def total(self) -> Reading:
        """The sum over all lives; no amount in it ever falls."""
        total = dict(self.past)
        _add(total, self.last)
        return total


class RunnerMetrics(Collector):
    """The metrics of a node's runners, summed, as of the last `refresh`."""

    def __init__(
        self,
        registry: CollectorRegistry,
        supervisors: Mapping[str, Supervisor],
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisors = supervisors
        self._timeout_s = timeout_s
        self._clock = clock
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._readings = SCRAPES.counter(registry, ("ok", "silent", "unreadable"))
        self._one_at_a_time = asyncio.Lock()
        self._read_at = -math.inf
        registry.register(self)

    async def refresh(self) -> None:
        """Asks every runner that could work, all at once, unless that was done just now. Never raises."""
        async with self._one_at_a_time:
            if self._clock() - self._read_at < FRESH_S:
                return
            async with asyncio.TaskGroup() as group:
                for name, keeper in self._supervisors.items():
                    if keeper.client and keeper.state in ASKED:
                        slot = name, keeper.slot.model
                        group.create_task(self._ask(slot, keeper.client), name=f"metrics:{name}")
            self._read_at = self._clock()

    def describe(self) -> Iterable[Metric]:
        """The families, without series."""
        return [self._jobs({}), self._stages({})]

    def collect(self) -> Iterator[Metric]:
        """The sums of all runners by (pipeline, model, …)."""
        total: Reading = {}
        for (_, model), tally in self._tallies.items():
            _add(total, {(f, (labels[0], model, *labels[1:])): v for (f, labels), v in tally.total().items()})
        yield self._jobs(total)
        yield self._stages(total)

    async def _ask(self, slot: tuple[str, str], client: RunnerClient) -> None:
        self._readings[(await self._answer(slot, client),)].inc()

    async def _answer(self, slot: tuple[str, str], client: RunnerClient) -> str:
        name, _ = slot
        with sheltered("runner metrics unreadable", slot=name):
            try:
                self._tallies.setdefault(slot, Tally()).take(client, read(await client.metrics(self._timeout_s)))
            except ValueError as error:
                log.warning("runner metrics unreadable", slot=name, error=printable(str(error), 200))
                return "unreadable"
            except NO_ANSWER as error:
                log.warning("runner metrics missing", slot=name, error=type(error).__name__)
                return "silent"
            return "ok"
        return "unreadable"

    def _jobs(self, total: Reading) -> Metric:
        family = CounterMetricFamily(JOBS.name, JOBS.meaning, labels=FAMILIES[0].label_names)
        for labels, amounts in _of(JOBS, total):
            family.add_metric(list(labels), amounts[0])
        return family

    def _stages(self, total: Reading) -> Metric:
        family = HistogramMetricFamily(STAGE_SECONDS.name, STAGE_SECONDS.meaning, labels=FAMILIES[1].label_names)
        for labels, amounts in _of(STAGE_SECONDS, total):
            family.add_metric(list(labels), list(zip(BOUNDS, amounts, strict=False)), amounts[-1])
        return family


def _samples(text: bytes) -> Iterator[Sample]:
    """Every sample of a text. Raises ValueError, also where the parser falls over a text in another way."""
    try:
        for family in text_string_to_metric_families(text.decode()):
            yield from family.samples
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"no metrics text ({type(error).__name__})") from None


def _place(sample: Sample) -> tuple[Family, int] | None:
    """The family that a sample belongs to, and its place in the amounts. Raises ValueError for another bucket."""
    if sample.name == JOBS.name:
        return JOBS, 0
    if sample.name == f"{STAGE_SECONDS.name}_bucket":
        return STAGE_SECONDS, BOUNDS.index(sample.labels.get("le", ""))
    return (STAGE_SECONDS, len(BOUNDS)) if sample.name == f"{STAGE_SECONDS.name}_sum" else None


def _labels(family: Family, sample: Sample) -> Labels:
    if sample.labels.keys() - {"le"} != set(family.label_names):
        raise ValueError(f"{family.name} has other labels")
    return tuple(sample.labels[name] for name in family.label_names)


def _amount(value: float) -> float:
    if not 0 <= value <= LARGEST:
        raise ValueError("an amount is negative, not finite, or out of all measure")
    return value


def _known(name: str, labels: Labels) -> Labels:
    family = JOBS if name == JOBS.name else STAGE_SECONDS
    pairs = zip(family.label_names, labels, strict=True)
    return tuple(value if value in VALUES[label] else OTHER for label, value in pairs)


def _whole(name: str, parts: Mapping[int, float]) -> Amounts:
    """The amounts of one series. Raises ValueError when some are missing, or when buckets are not cumulative."""
    amounts = tuple(value for _, value in sorted(parts.items()))
    if len(amounts) != SIZES[name] or any(a > b for a, b in pairwise(amounts[:-1])):
        raise ValueError(f"{name} is not whole")
    return amounts


def _add(total: Reading, more: Reading) -> None:
    for series, amounts in more.items():
        before = total.get(series)
        total[series] = tuple(map(sum, zip(before, amounts, strict=True))) if before else amounts


def _fell(before: Reading, now: Reading) -> bool:
    """Whether an amount is less than it was: its runner began anew."""
    return any(
        series not in now or any(a > b for a, b in zip(amounts, now[series], strict=True))
        for series, amounts in before.items()
    )


def _of(family: Family, reading: Reading) -> list[tuple[Labels, Amounts]]:
    return sorted((labels, amounts) for (name, labels), amounts in reading.items() if name == family.name)
