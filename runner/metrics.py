"""The runner's metrics, all of them."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class RunnerMetrics:
    """Counters of one app, in a registry of its own: several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._jobs = Counter("reelnet_runner_jobs", "Jobs that ended.", ("pipeline", "outcome"), registry=self.registry)
        self._stages = Histogram(
            "reelnet_runner_stage_seconds",
            "Time in each stage of a job.",
            ("pipeline", "stage"),
            registry=self.registry,
            buckets=_SECONDS,
        )

    def count(self, pipeline: str, outcome: str, timings_s: Mapping[str, float]) -> None:
        """Counts a job that ended; `outcome` is `done` or a failure class."""
        self._jobs.labels(pipeline, outcome).inc()
        for stage, seconds in timings_s.items():
            self._stages.labels(pipeline, stage).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
