"""The orchestrator's metrics, all of them, defined in one place."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from reelnet.errors import ReelnetError
from reelnet.jobs import Ticket

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class NodeMetrics:
    """Counters of one node. Labels are bounded: configured pipelines and models, classes of the error tree."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._jobs = Counter(
            "reelnet_node_jobs", "Attempts that ended, by outcome.", ["pipeline", "model", "outcome"], registry=registry
        )
        self._refusals = Counter(
            "reelnet_node_refusals", "Tickets that were not taken, by class.", ["failure_class"], registry=registry
        )
        self._run = Histogram(
            "reelnet_node_run_seconds",
            "Seconds a job held its slot.",
            ["pipeline", "model"],
            buckets=SECONDS,
            registry=registry,
        )

    def finished(self, ticket: Ticket, outcome: str) -> None:
        """An attempt ended as `done` or as a failure class."""
        self._jobs.labels(ticket.pipeline, ticket.model, outcome).inc()

    def refused(self, error: ReelnetError) -> None:
        """A ticket was not taken."""
        self._refusals.labels(error.failure.value).inc()

    def ran(self, ticket: Ticket, seconds: float) -> None:
        """A runner worked on a job for that long."""
        self._run.labels(ticket.pipeline, ticket.model).observe(seconds)
