"""What a runner counts of its own jobs."""

from __future__ import annotations

from reelnet.errors import FailureClass
from runner.metrics import RunnerMetrics
from tests.fakes.exposition import Exposition


def said(metrics: RunnerMetrics) -> Exposition:
    """What a scrape would show."""
    return Exposition(metrics.text().decode())


def test_a_job_is_counted_by_outcome_and_class() -> None:
    """Whatever it ended with, once."""
    metrics = RunnerMetrics()
    for outcome in ("done", "done", *FailureClass):
        metrics.count("text-to-image", str(outcome), {})
    assert said(metrics).sum("reelnet_runner_jobs_total") == 2 + len(FailureClass)
    assert said(metrics).sum("reelnet_runner_jobs_total", outcome="ok", class_="none") == 2
    assert said(metrics).sum("reelnet_runner_jobs_total", class_="oom", outcome="failed") == 1


def test_a_stage_that_nobody_knows_is_other() -> None:
    """A family that names a stage of its own makes no new series."""
    metrics = RunnerMetrics()
    metrics.count("upscale", "done", {"denoise": 2.0, "polish": 0.5, "varnish": 0.25})
    assert said(metrics).sum("reelnet_runner_stage_seconds_sum", stage="denoise") == 2.0
    assert said(metrics).sum("reelnet_runner_stage_seconds_sum", stage="other") == 0.75


def test_a_scrape_says_what_runs() -> None:
    """The build information names the component."""
    assert said(RunnerMetrics()).sum("reelnet_build_info", component="runner") == 1
