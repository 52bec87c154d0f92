"""How long a job will take, learned."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.estimates import Estimates, start_s
from reelnet.pipelines import Work

JOB = Work(1_000_000, 100)


def test_nothing_is_known_before_the_first_job() -> None:
    """An unknown model's job is taken to last no time, so that it is never refused for its deadline."""
    assert Estimates().expected_s("p", "m", JOB) == 0


def test_the_first_job_is_believed() -> None:
    """Seconds grow with the work units; each (pipeline, model) has its own figure."""
    estimates = Estimates()
    estimates.observe("p", "m", JOB, 10)
    assert estimates.expected_s("p", "m", Work(3_000_000, 1)) == pytest.approx(30)
    assert estimates.expected_s("p", "other", JOB) == estimates.expected_s("other", "m", JOB) == 0


def test_later_jobs_move_the_estimate() -> None:
    """The newest counts for three tenths; a change of speed is learned within a dozen jobs."""
    estimates = Estimates()
    estimates.observe("p", "m", JOB, 10)
    estimates.observe("p", "m", JOB, 20)
    assert estimates.expected_s("p", "m", JOB) == pytest.approx(13)
    for _ in range(12):
        estimates.observe("p", "m", JOB, 20)
    assert estimates.expected_s("p", "m", JOB) == pytest.approx(20, rel=0.01)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1000)), min_size=1, max_size=20))
def test_an_estimate_lies_among_what_was_seen(jobs: list[tuple[int, float]]) -> None:
    """Never under the fastest nor over the slowest job, and a job of no work divides by nothing."""
    estimates = Estimates()
    for steps, seconds in jobs:
        estimates.observe("p", "m", Work(steps, 1), seconds)
    speeds = [seconds / max(1, steps) for steps, seconds in jobs]
    assert min(speeds) * 1e6 * (1 - 1e-9) <= estimates.expected_s("p", "m", JOB) <= max(speeds) * 1e6 * (1 + 1e-9)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6), st.integers(0, 60), st.floats(0.1, 50))
def test_a_start_is_that_of_jobs_handed_out_one_by_one(free_in_s: list[float], jobs: int, each_s: float) -> None:
    """Every job goes to the device that is free first; the last one's start is what is told."""
    free = sorted(free_in_s)
    for _ in range(jobs):
        free = sorted([free[0] + each_s, *free[1:]])
    assert start_s(free_in_s, jobs, each_s) == pytest.approx(free[0], abs=1e-6)


def test_jobs_of_no_known_length_take_no_time() -> None:
    """Then a job begins when the first device is free."""
    assert start_s([7, 3, 5], 10, 0.0) == 3
