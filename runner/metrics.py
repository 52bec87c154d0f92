"""Counts the runner's metrics, which `reelnet.runner_metrics` defines: its node reads them too."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.exposition import generate_latest

from reelnet.errors import FailureClass
from reelnet.metrics import CONTENT_TYPE, ENDINGS, OTHER, new_registry
from reelnet.runner_metrics import JOBS, STAGE_SECONDS, STAGES

__all__ = ["CONTENT_TYPE", "RunnerMetrics"]
_ENDINGS = {"done": ENDINGS[None], **{failure.value: ENDINGS[failure] for failure in FailureClass}}
_STAGES = frozenset(STAGES)


class RunnerMetrics:
    """Metrics of one app, in a registry of its own: several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = new_registry("runner")
        self._jobs = JOBS.counter(self.registry)
        self._stages = STAGE_SECONDS.histogram(self.registry)

    def count(self, pipeline: str, outcome: str, timings_s: Mapping[str, float]) -> None:
        """Counts a job that ended; `outcome` is `done` or a failure class."""
        self._jobs[(pipeline, *_ENDINGS[outcome])].inc()
        for stage, spent_s in timings_s.items():
            self._stages[pipeline, stage if stage in _STAGES else OTHER].observe(spent_s)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
