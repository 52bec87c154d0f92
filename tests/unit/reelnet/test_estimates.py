"""How long a job will take, learned from how long jobs took."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelnet.estimates import KEPT_JOBS, LONGEST_S, Estimate, Estimates, RunTimes

TINY = 64 * 64
"""Pixel·steps of the smallest picture that there is, one step."""
USUAL = 512 * 512 * 20
LARGE = 2048 * 2048 * 200 * 3
SIZES = (512 * 512 * 10, 512 * 512 * 20, 768 * 768 * 20, 1024 * 1024 * 20, 1024 * 1024 * 40)
SEEDS = range(20)
times = st.one_of(st.floats(), st.floats(0, 1e6), st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e300]))
amounts = st.one_of(st.integers(-1, 2**64), st.integers(1, 10**9))
histories = st.lists(st.tuples(amounts, times), max_size=3 * KEPT_JOBS)


def after(jobs: Iterable[tuple[int, float]]) -> RunTimes:
    """Run times of a kind with that history of (units, seconds)."""
    run_times = RunTimes()
    for units, seconds in jobs:
        run_times.observe(units, seconds)
    return run_times


def seconds(run_times: RunTimes, units: int) -> float:
    """The middle, which is known."""
    found = run_times.seconds(units)
    assert found is not None
    return found


def noisy(rng: random.Random, jobs: int, constant: float, slope: float, sigma: float = 0.1) -> list[tuple[int, float]]:
    """Jobs of mixed sizes whose times spread around a line."""
    sizes = [rng.choice(SIZES) for _ in range(jobs)]
    return [(units, (constant + slope * units) * rng.lognormvariate(0, sigma)) for units in sizes]


def test_nothing_is_known_before_the_first_job() -> None:
    """An unknown kind of job is taken to last no time, so that it is never refused for its deadline."""
    estimates: Estimates[str] = Estimates()
    estimates.observe("kind", USUAL, 3.0)
    assert estimates.estimate("other", USUAL) == Estimate(0.0, 0.0)
    assert estimates.seconds("other", USUAL) is None
    assert RunTimes().estimate(USUAL) == Estimate(0.0, 0.0)


def test_a_job_takes_as_long_as_the_one_before_it() -> None:
    """One job says all there is to know of its own size."""
    assert after([(USUAL, 3.0)]).estimate(USUAL) == Estimate(pytest.approx(3.0), pytest.approx(3.0))


@pytest.mark.parametrize(("constant", "slope"), [(0.3, 1e-7), (2.0, 2e-8), (0.0, 4e-7), (1.0, 0.0)])
@pytest.mark.parametrize("seed", SEEDS)
def test_constant_and_slope_are_found(constant: float, slope: float, seed: int) -> None:
    """Times of every size that was seen are known within a quarter, those of four times the largest within a half."""
    run_times = after(noisy(random.Random(seed), 200, constant, slope))
    for units, tolerance in [*((size, 0.25) for size in SIZES), (4 * max(SIZES), 0.5)]:
        assert seconds(run_times, units) == pytest.approx(constant + slope * units, rel=tolerance)


def test_after_tiny_jobs_alone_a_large_one_is_unknown_and_not_impossible() -> None:
    """Time does not grow with the work alone: neither a thousand times as long is promised, nor as short."""
    for jobs in (1, 40):
        run_times = after([(TINY, 0.05)] * jobs)
        usual, large = run_times.estimate(USUAL), run_times.estimate(LARGE)
        assert 0.1 < usual.seconds < 0.4
        assert 0.5 < large.seconds < 100
        assert usual.least_s <= 0.06
        assert large.least_s <= 0.1


def test_after_large_jobs_alone_a_small_one_takes_between_its_share_and_as_long() -> None:
    """The middle is less than the large one takes, and the least no more than its share."""
    small = after([(4 * USUAL, 8.0)] * 5).estimate(USUAL)
    assert 2.0 < small.seconds < 3.5
    assert small.least_s == pytest.approx(2.0)


def test_doubt_grows_with_the_distance() -> None:
    """The further a job is beyond what was seen, the less of its expected time is certain."""
    run_times = after(noisy(random.Random(1), 40, 0.5, 1e-7))
    certain = [run_times.estimate(factor * max(SIZES)) for factor in (1, 4, 16, 64)]
    shares = [estimate.least_s / estimate.seconds for estimate in certain]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5 > 0.2 > shares[-1]


@given(histories, st.tuples(amounts, amounts).map(sorted))
def test_whatever_was_seen_estimates_are_sane(jobs: list[tuple[int, float]], asked: list[int]) -> None:
    """Finite, never under 0, the least no more than the middle, and no less for more work."""
    smaller, larger = (after(jobs).estimate(units) for units in asked)
    for estimate in (smaller, larger):
        assert 0 <= estimate.least_s <= estimate.seconds * (1 + 1e-9) <= LONGEST_S * (1 + 1e-9)
    assert smaller.seconds <= larger.seconds * (1 + 1e-9)
    assert smaller.least_s <= larger.least_s * (1 + 1e-9)


@given(histories)
def test_times_that_are_none_change_nothing(jobs: list[tuple[int, float]]) -> None:
    """Negative, infinite and no number: what comes of them is as if they had not been."""
    good = [(units, took) for units, took in jobs if 0 <= took < math.inf]
    assert after(jobs).estimate(USUAL) == after(good).estimate(USUAL)
    assert not any(RunTimes().observe(USUAL, took) for _, took in jobs if not 0 <= took < math.inf)


@pytest.mark.parametrize("wrong", [1000.0, 0.0])
@pytest.mark.parametrize("sizes", [(USUAL,) * 10, SIZES * 2, (TINY,) * 9 + (USUAL,), (USUAL,) * 9 + (TINY,)])
def test_one_wrong_job_of_ten_moves_little(sizes: tuple[int, ...], wrong: float) -> None:
    """A thousand times as long or none at all, of whatever size: what is told of these sizes stays within twice."""
    right = [(units, 0.5 + 1e-7 * units) for units in sizes]
    for place, (units, took) in enumerate(right):
        moved = after([*right[:place], (units, took * wrong), *right[place + 1 :]])
        for asked, true_s in right:
            estimate = moved.estimate(asked)
            assert true_s / 2 < estimate.seconds < true_s * 2
            assert estimate.least_s < true_s * 1.1
            assert estimate.least_s > true_s / 2 or sizes.count(asked) == 1


@given(st.lists(st.tuples(st.integers(1, 2**40), st.floats(0, 1e5)), min_size=6, max_size=6), st.integers(0, 19))
def test_a_fifth_of_wrong_jobs_is_no_matter(wrong: list[tuple[int, float]], seed: int) -> None:
    """Whatever their sizes and times, jobs of the sizes that the others have stay known within a factor of two."""
    rng = random.Random(seed)
    jobs = noisy(rng, KEPT_JOBS - len(wrong), 0.5, 1e-7) + wrong
    rng.shuffle(jobs)
    run_times = after(jobs)
    for units in SIZES:
        assert 0.5 < seconds(run_times, units) / (0.5 + 1e-7 * units) < 2


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_change_of_speed_is_followed(factor: float, seed: int) -> None:
    """A device that became three times as slow or as fast is known as such within thirty jobs."""
    rng = random.Random(seed)
    run_times = after(noisy(rng, 100, 0.5, 1e-7))
    for units, took in noisy(rng, 30, 0.5, 1e-7):
        run_times.observe(units, took * factor)
    for units in SIZES:
        assert seconds(run_times, units) == pytest.approx(factor * (0.5 + 1e-7 * units), rel=0.3)


def test_a_lie_is_outvoted() -> None:
    """A job of ten seconds that states one unit of work: two honest ones later their size is known."""
    run_times = after([(1, 10.0)])
    assert run_times.estimate(USUAL).least_s == pytest.approx(10.0)
    for _ in range(2):
        run_times.observe(USUAL, 2.0)
    assert run_times.estimate(USUAL) == Estimate(pytest.approx(2.0, rel=0.1), pytest.approx(2.0, rel=0.1))


def test_work_of_no_size_is_some() -> None:
    """Zero units and more than a float can count divide by nothing and overflow nothing."""
    run_times = after([(0, 1.0), (2**63, 2.0), (10**400, 2.0), (-5, 1.0)])
    assert 0 < seconds(run_times, 0) <= seconds(run_times, 10**400) <= LONGEST_S


def test_a_line_is_computed_once_for_some_jobs() -> None:
    """It costs a slope for each pair: of many jobs an eighth has to be new, of a few each counts at once."""
    run_times = RunTimes()
    changed = [run_times.observe(USUAL, 1.0 + i) and run_times.seconds(USUAL) is not None for i in range(KEPT_JOBS)]
    assert all(changed[:7])
    assert not all(changed[-5:])
    assert any(changed[-5:])


def test_so_many_kinds_are_kept() -> None:
    """Those that nobody used for the longest time go first."""
    estimates: Estimates[int] = Estimates(kept_kinds=3)
    for kind in (0, 1, 2, 0, 3):
        estimates.observe(kind, USUAL, 1.0)
    assert [kind for kind in range(4) if estimates.seconds(kind, USUAL) is not None] == [0, 2, 3]
