"""Intervals of single figures: they hold what they promise, and say when they cannot."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.intervals import MAX_BATCHES, Interval, Turn, needed_for, quantile, rate

SEEDS = range(7000, 7100)
AMOUNTS = st.lists(st.tuples(st.integers(0, 8), st.floats(0.001, 1e4)), min_size=1, max_size=30)


def lognormal(seed: int, n: int, sigma: float) -> list[float]:
    """Seconds with a median of 1."""
    return [float(x) for x in np.exp(sigma * np.random.default_rng(seed).standard_normal(n))]


def covers(interval: Interval, truth: float) -> bool:
    """Whether the interval holds the truth; a missing end is no bound."""
    return (interval.low or 0.0) <= truth <= (math.inf if interval.high is None else interval.high)


@pytest.mark.parametrize(("n", "sigma"), [(5, 0.1), (10, 0.1), (10, 0.3), (20, 0.3), (100, 0.6)])
def test_a_throughputs_interval_holds_it(n: int, sigma: float) -> None:
    """In at least 90 of 100 seeded runs the interval holds the true rate, however few and skewed the runs are."""
    truth = 1 / math.exp(sigma**2 / 2)
    held = [covers(rate([Turn(1.0, s) for s in lognormal(seed, n, sigma)], seed), truth) for seed in SEEDS]
    assert sum(held) >= 90


@pytest.mark.parametrize(("n", "share"), [(6, 0.5), (10, 0.5), (10, 0.9), (60, 0.9), (100, 0.99), (500, 0.99)])
def test_a_known_quantile_comes_back_within_its_interval(n: int, share: float) -> None:
    """In at least 90 of 100 seeded runs, for every quantile that is shown, from the fewest runs on."""
    truth = math.exp(0.5 * NormalDist().inv_cdf(share))
    found = [quantile(lognormal(seed, n, 0.5), share) for seed in SEEDS]
    assert all(interval.value is not None for interval in found)
    assert sum(covers(interval, truth) for interval in found) >= 90


@pytest.mark.parametrize(("n", "share"), [(0, 0.5), (1, 0.5), (9, 0.9), (99, 0.99)])
def test_too_few_values_give_no_quantile(n: int, share: float) -> None:
    """An invented p99 is worse than none; the note says how many are needed."""
    found = quantile([1.0] * n, share)
    assert (found.value, found.low, found.high) == (None, None, None)
    assert str(needed_for(share)) in found.note


@pytest.mark.parametrize(
    ("n", "share", "low", "high"), [(6, 0.5, 1, 6), (10, 0.5, 2, 9), (100, 0.5, 40, 61), (60, 0.9, 49, 59)]
)
def test_the_ends_are_the_tables_order_statistics(n: int, share: float, low: int, high: int) -> None:
    """The ranks that the binomial distribution gives for 95 %, half of the rest on each side."""
    found = quantile([float(value) for value in range(1, n + 1)], share)
    assert (found.low, found.high) == (low, high)


def test_an_end_that_no_value_can_give_is_missing() -> None:
    """Ten values bound the 90th percentile from below, not from above."""
    found = quantile([float(n) for n in range(10)], 0.9)
    assert found.low is not None
    assert found.high is None
    assert found.note


@given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=10, max_size=60), st.sampled_from([0.5, 0.9]))
def test_a_quantile_is_numpys_and_lies_in_its_interval(values: list[float], share: float) -> None:
    """Linear interpolation between the two nearest values; the order of the runs does not matter."""
    found = quantile(values, share)
    assert found.value == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-9)
    assert found == quantile(values[::-1], share)
    assert covers(found, found.value or 0.0)


@given(AMOUNTS)
def test_a_rate_is_amounts_over_seconds_and_lies_in_its_interval(turns: list[tuple[int, float]]) -> None:
    """Whatever the turns are: nothing is divided by zero, and the ends stand on their sides."""
    found = rate([Turn(*turn) for turn in turns], 0)
    assert found.value == pytest.approx(sum(n for n, _ in turns) / sum(s for _, s in turns))
    assert covers(Interval(None, found.low, found.high), found.value or 0.0)


def test_turns_that_differ_too_much_have_no_upper_end() -> None:
    """It would be larger than any number; the note says why it is missing."""
    found = rate([Turn(0, 1.0), Turn(0, 1.0), Turn(0, 1.0), Turn(1, 160.0), Turn(8, 1.0)], 0)
    assert (found.value, found.high) == (pytest.approx(9 / 164), None)
    assert found.low is not None
    assert "no upper end" in found.note


def test_equal_turns_have_an_interval_of_no_width() -> None:
    """A price that never changes is known exactly."""
    assert rate([Turn(295.0, 1.0)] * 12, 0) == Interval(295.0, 295.0, 295.0)


def test_few_turns_have_no_interval() -> None:
    """Four turns say a rate and not how far it can be believed."""
    found = rate([Turn(1.0, 1.0), Turn(1.0, 2.0), Turn(1.0, 1.0), Turn(1.0, 2.0)], 0)
    assert (found.value, found.low) == (pytest.approx(4 / 6), None)
    assert rate([], 0).value is None


def test_a_run_of_a_hundred_thousand_jobs_is_batched() -> None:
    """Time and memory are bounded; the rate is exact, and the interval about as wide as theory says."""
    seconds = lognormal(1, 100_000, 0.5)
    found = rate([Turn(1.0, s) for s in seconds], 0)
    assert found.value == pytest.approx(len(seconds) / sum(seconds))
    width = (found.high or 0) / (found.low or 1) - 1
    expected = 2 * 1.96 * float(np.std(seconds)) / float(np.mean(seconds)) / math.sqrt(len(seconds))
    assert width == pytest.approx(expected, rel=5 / math.sqrt(2 * MAX_BATCHES))


def test_the_same_seed_gives_the_same_interval() -> None:
    """A report can be made again from its samples."""
    turns = [Turn(1.0, s) for s in lognormal(3, 30, 0.3)]
    assert rate(turns, 7) == rate(turns, 7)
