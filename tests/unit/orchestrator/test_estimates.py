"""When a job begins that has others before it, and since when jobs are refused for their time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.estimates import Refused, start_s


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


def test_a_refusal_is_remembered_until_a_job_of_its_kind_is_taken() -> None:
    """Since the first one: who asks again and again does not begin the wait anew."""
    refused = Refused()
    assert refused.for_s("kind", 5.0) == 0
    refused.add("kind", 10.0)
    refused.add("kind", 30.0)
    assert (refused.for_s("kind", 40.0), refused.for_s("other", 40.0)) == (30, 0)
    refused.clear("kind")
    assert refused.for_s("kind", 50.0) == 0
