"""What a slot has done in the last hour."""

from __future__ import annotations

import pytest

from orchestrator.history import HOUR_S, KEPT_JOBS, History


def test_a_slot_without_jobs_has_no_times() -> None:
    """None, rather than a time of 0 that would look like speed."""
    history = History()
    assert history.jobs_per_hour(5.0) == 0
    assert history.quantile_s(0.5, 5.0) is None


def test_jobs_count_for_an_hour() -> None:
    """Each from its own end on."""
    history = History()
    for at in (0.0, 10.0, 20.0):
        history.add(at, 1.0)
    assert [history.jobs_per_hour(HOUR_S + at) for at in (0.0, 0.1, 10.1, 20.1)] == [3, 2, 1, 0]
    assert history.quantile_s(0.5, HOUR_S + 21) is None


@pytest.mark.parametrize(
    ("times", "p50", "p95"),
    [
        ([3.0], 3.0, 3.0),
        ([1.0, 2.0], 1.0, 2.0),
        ([5.0, 1.0, 3.0], 3.0, 5.0),
        ([float(i) for i in range(1, 101)], 50.0, 95.0),
    ],
)
def test_quantiles_are_of_the_times_that_were_seen(times: list[float], p50: float, p95: float) -> None:
    """The time that so large a share did not exceed, in whatever order the jobs came; the whole is the longest."""
    history = History()
    for seconds in times:
        history.add(0.0, seconds)
    assert (history.quantile_s(0.5, 0.0), history.quantile_s(0.95, 0.0)) == (p50, p95)
    assert history.quantile_s(1.0, 0.0) == max(times)
    assert history.quantile_s(0.0, 0.0) == min(times)


def test_a_fast_slot_takes_bounded_memory() -> None:
    """The newest jobs are kept."""
    history = History()
    for index in range(KEPT_JOBS + 10):
        history.add(0.0, float(index))
    assert history.jobs_per_hour(0.0) == KEPT_JOBS
    assert history.quantile_s(0.0, 0.0) == 10.0
