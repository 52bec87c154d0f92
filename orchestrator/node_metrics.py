"""The node's own metrics, all of them, defined in one place; `runner_metrics.py` passes those of its runners on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry

from orchestrator.runner_state import RunnerState
from orchestrator.slots import Slot, SlotTable
from orchestrator.spool import Spool
from orchestrator.supervisor import End, Supervisor
from orchestrator.watchers import Watchers
from reelnet.errors import ReelnetError
from reelnet.jobs import Ticket
from reelnet.metrics import CLASS, OTHER, OUTCOME, PIPELINE, Label, Values, counter, ending, gauge, seconds
from reelnet.pricing import NANO

REASONS = (
    "attempt", "ceiling", "closed", "deadline", "deadline_unreachable", "digest", "disk_full", "draining",
    "epoch", "expired", "expires", "input", "input_size", "lora", "model", "params", "pipeline", "queue_full",
    "rates", "schema", "signature", "spool_full", "unknown_broadcaster", "work", "wrong_node",
)  # fmt: skip
"""The codes of this node's own refusals."""
MODEL = Label("model", "the configured models")
REASON = Label("reason", ", ".join(f"`{reason}`" for reason in REASONS) + "; `other`")
STAGE = Label(
    "stage",
    "`input` (from accepted until complete; only jobs that have one), `queue` (from then until a slot was free), "
    "`run` (a runner's work that went well), `delivery` (from the end until the broadcaster had everything)",
)
SLOT_STATES = ("ready", "busy", "down")
ATTEMPTS = counter("reelnet_node_attempts_total", "Attempts taken that ended.", PIPELINE, MODEL, OUTCOME, CLASS)
REFUSALS = counter("reelnet_node_refusals_total", "Tickets that were not taken.", CLASS, REASON)
STAGE_SECONDS = seconds("reelnet_node_stage_seconds", "Stages of the attempts on this node.", PIPELINE, MODEL, STAGE)
PIXEL_STEPS = counter(
    "reelnet_node_work_pixel_steps_total", "Work of attempts that went well: pixels × steps × images or frames.",
    PIPELINE, MODEL, unit="pixels × steps",
)  # fmt: skip
OUTPUT_PIXELS = counter(
    "reelnet_node_work_output_pixels_total", "Pixels made by attempts that went well.", PIPELINE, MODEL, unit="pixels"
)
QUOTED = counter(
    "reelnet_node_quoted_dollars_total", "Quotes of attempts that went well: nano-dollars, divided by 10⁹.",
    PIPELINE, MODEL, unit="dollars",
)  # fmt: skip
QUEUED = gauge("reelnet_node_queued_jobs", "Jobs that wait for a slot or for their input.", MODEL)
OLDEST_WAIT = gauge(
    "reelnet_node_oldest_wait_seconds", "Age of the oldest job that waits; 0 when none does.", MODEL, unit="seconds"
)
SLOTS = gauge(
    "reelnet_node_slots", "Slots.", MODEL,
    Label("state", "`ready` (for a job), `busy` (with one), `down` (without a runner that could take one)"),
)  # fmt: skip
RUNNERS = gauge(
    "reelnet_node_runners", "Runners by their supervisor's state.", MODEL,
    Label("state", ", ".join(f"`{state}`" for state in RunnerState)),
)  # fmt: skip
RESTARTS = counter(
    "reelnet_node_runner_restarts_total", "Starts of a runner after the one before had failed.", MODEL,
    Label("reason", ", ".join(f"`{end}`" for end in End if end is not End.TAKEN)),
)  # fmt: skip
FAULTY = gauge("reelnet_node_model_faulty", "1 while a model's folder keeps it from being loaded, else 0.", MODEL)
COLD_STARTS = counter("reelnet_node_cold_starts_total", "Loads of a model; a runner that was adopted had none.", MODEL)
OPEN = gauge("reelnet_node_attempts_in_progress", "Attempts here: waiting, running, or not yet acknowledged.")
SPOOL = gauge("reelnet_node_spool_bytes", "Inputs and outputs that the node holds.", unit="bytes")
DRAINING = gauge("reelnet_node_draining", "1 while the node drains and takes no job, else 0.")
SCRAPES = counter(
    "reelnet_node_runner_scrapes_total", "Readings of runners' own metrics, which this node passes on.",
    Label("outcome", "`ok`, `silent` (no answer in time), `unreadable` (not what a runner's metrics are)"),
)  # fmt: skip
SKEW = gauge(
    "reelnet_node_broadcaster_clock_skew_seconds", "How far the clocks of those that watch differ from ours, at most.",
    Label("side", "`ahead`, `behind` of this machine"), unit="seconds",
)  # fmt: skip
FAMILIES = (
    ATTEMPTS, OPEN, REFUSALS, STAGE_SECONDS, PIXEL_STEPS, OUTPUT_PIXELS, QUOTED, QUEUED, OLDEST_WAIT, SLOTS, RUNNERS,
    RESTARTS, FAULTY, COLD_STARTS, SPOOL, DRAINING, SCRAPES, SKEW,
)  # fmt: skip
_KNOWN_REASONS = frozenset(REASONS)


class Drainable(Protocol):
    """What the metrics ask a node for when they are scraped."""

    watchers: Watchers

    @property
    def draining(self) -> bool:
        """Whether no new job is taken."""

    def attempts(self) -> Sequence[object]:
        """The attempts that are here."""

    def faults(self) -> Mapping[str, str]:
        """What keeps each configured model from being loaded; empty where nothing does."""


class Kept(Protocol):
    """What the metrics ask a node's keeper for."""

    restarts: Counter[tuple[str, End]]
    cold_starts: Counter[str]
    supervisors: dict[str, Supervisor]


class NodeMetrics:
    """The metrics of one node."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._attempts = ATTEMPTS.counter(registry)
        self._refusals = REFUSALS.counter(registry)
        self._stages = STAGE_SECONDS.histogram(registry)
        self._done = PIXEL_STEPS.sums(registry), OUTPUT_PIXELS.sums(registry), QUOTED.sums(registry, NANO)

    def watch(self, table: SlotTable, kept: Kept, spool: Spool, node: Drainable) -> None:
        """Shows queue, slots, runners and spool as they are at each scrape, from now on."""
        registry, ends = self._registry, [end for end in End if end is not End.TAKEN]

        def models() -> list[str]:
            return list(dict.fromkeys(slot.model for slot in table.slots))

        def counted() -> list[str]:
            return list(dict.fromkeys([*models(), *(m for m, _ in kept.restarts), *kept.cold_starts]))

        QUEUED.read(registry, lambda: {(model,): len(table.waiting(model)) for model in models()})
        OLDEST_WAIT.read(registry, lambda: {(model,): table.oldest_wait_s(model) for model in models()})
        SLOTS.read(registry, lambda: _by_state(models(), SLOT_STATES, ((s.model, slot_state(s)) for s in table.slots)))
        RUNNERS.read(
            registry,
            lambda: _by_state(models(), RunnerState, ((k.slot.model, k.state) for k in kept.supervisors.values())),
        )
        RESTARTS.read(registry, lambda: {(m, end): kept.restarts[m, end] for m in counted() for end in ends})
        COLD_STARTS.read(registry, lambda: {(m,): kept.cold_starts[m] for m in counted()})
        FAULTY.read(registry, lambda: {(model,): bool(fault) for model, fault in node.faults().items()})
        OPEN.read(registry, lambda: {(): len(node.attempts())})
        SPOOL.read(registry, lambda: {(): spool.used_bytes})
        DRAINING.read(registry, lambda: {(): node.draining})
        SKEW.read(registry, lambda: dict(zip((("ahead",), ("behind",)), node.watchers.skews_s(), strict=True)))

    def finished(self, ticket: Ticket, quote: int, error: ReelnetError | None) -> None:
        """An attempt ended; `quote` is its price in nano-dollars."""
        offer = ticket.pipeline, ticket.model
        self._attempts[(*offer, *ending(error))].inc()
        if error is None:
            for sums, amount in zip(
                self._done, (ticket.work.pixel_steps, ticket.work.output_pixels, quote), strict=True
            ):
                sums[offer] += amount

    def refused(self, error: ReelnetError) -> None:
        """A ticket was not taken."""
        self._refusals[error.failure.value, error.code if error.code in _KNOWN_REASONS else OTHER].inc()

    def waited(self, ticket: Ticket, input_s: float, queue_s: float) -> None:
        """A job got its slot, after its input took `input_s` to arrive and it waited `queue_s` from then on."""
        if ticket.inputs:
            self._stages[ticket.pipeline, ticket.model, "input"].observe(input_s)
        self._stages[ticket.pipeline, ticket.model, "queue"].observe(queue_s)

    def ran(self, ticket: Ticket, run_s: float) -> None:
        """A runner worked on a job for that long."""
        self._stages[ticket.pipeline, ticket.model, "run"].observe(run_s)

    def delivered(self, ticket: Ticket, delivery_s: float) -> None:
        """The broadcaster acknowledged a job's outputs that long after its end."""
        self._stages[ticket.pipeline, ticket.model, "delivery"].observe(delivery_s)


def slot_state(slot: Slot) -> str:
    """`busy` with a job, `ready` for one, or `down`."""
    if slot.holder:
        return "busy"
    return "ready" if slot.ready else "down"


def _by_state(models: Iterable[str], states: Iterable[str], seen: Iterable[tuple[str, str]]) -> Values:
    """How many of each model are in each state; none is shown as 0."""
    found = Counter(seen)
    return {(model, str(state)): found[model, state] for model in models for state in states}
