"""The broadcaster's metrics, all of them, defined in one place."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from broadcaster.job import JobProgress, now_ms

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class BroadcasterMetrics:
    """Counters of one broadcaster. Labels are bounded: pipelines, models of the pool, classes of the error tree."""

    def __init__(self, registry: CollectorRegistry, nodes_up: Callable[[], int]) -> None:
        self._jobs = Counter(
            "reelnet_jobs", "Jobs that ended, by outcome.", ["pipeline", "model", "outcome"], registry=registry
        )
        self._attempts = Counter(
            "reelnet_attempts", "Attempts on nodes, by outcome.", ["pipeline", "outcome"], registry=registry
        )
        self._seconds = Histogram(
            "reelnet_job_seconds", "Seconds from request to result.", ["pipeline"], buckets=SECONDS, registry=registry
        )
        Gauge("reelnet_nodes_up", "Nodes of the pool that are up.", registry=registry).set_function(nodes_up)

    def finished(self, pipeline: str, model: str, outcome: str, job: JobProgress) -> None:
        """A job reached its terminal state."""
        self._jobs.labels(pipeline, model, outcome).inc()
        self._seconds.labels(pipeline).observe((now_ms() - job.created_ms) / 1000)

    def attempt(self, pipeline: str, outcome: str) -> None:
        """An attempt ended as `ok` or as a failure class."""
        self._attempts.labels(pipeline, outcome).inc()
