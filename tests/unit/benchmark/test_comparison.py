"""Ratios of throughput and the ranks that follow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.comparison import Pair, blocks_needed, compare_paired, compare_unpaired, drift, ranks

SECONDS = st.floats(0.01, 100)


def times(seed: int, n: int, mean: float = 1.0, sigma: float = 0.1) -> list[float]:
    """Lognormal seconds."""
    return [float(x) for x in mean * np.exp(sigma * np.random.default_rng(seed).standard_normal(n))]


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=6, max_size=9))
def test_the_ratio_is_that_of_the_throughputs_shown(rows: list[tuple[float, float]]) -> None:
    """What is compared is what stands in the table; the interval holds it, and turning a pair turns all of it."""
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    (pair,) = compare_paired({"a": a, "b": b}, 0)
    assert pair.ratio == pytest.approx(sum(b) / sum(a))
    assert (pair.low or 0) <= pair.ratio * (1 + 1e-9)
    assert pair.high is None or pair.high >= pair.ratio * (1 - 1e-9)
    assert pair.turned().turned().ratio == pytest.approx(pair.ratio)


def test_a_slow_phase_of_the_machine_does_not_count() -> None:
    """Blocks that took ten times as long for both hide nothing: the ratio's interval stays narrow."""
    phase = np.array([1.0] * 6 + [10.0] * 6)
    a, b = np.array(times(1, 12)) * phase, np.array(times(2, 12, 1.3)) * phase
    (pair,) = compare_paired({"a": a.tolist(), "b": b.tolist()}, 0)
    (loose,) = compare_unpaired({"a": a.tolist(), "b": b.tolist()}, 0)
    assert pair.verdict == "faster"
    assert loose.verdict == "unclear"


def test_a_block_that_one_node_failed_counts_for_neither() -> None:
    """A failure is no time; it counts in the success, not in the speed."""
    a, b = times(1, 12), times(2, 12, 2.0)
    with_gap: list[float | None] = [None, *a[1:]]
    (pair,) = compare_paired({"a": with_gap, "b": b}, 0)
    assert pair.blocks == 11
    assert compare_paired({"a": [None, None], "b": [1.0, 2.0]}, 0) == ()


@pytest.mark.parametrize(("nodes", "needed"), [(2, 6), (3, 7), (4, 8), (8, 11)])
def test_so_few_blocks_can_show_nothing(nodes: int, needed: int) -> None:
    """With one block less, not even a node ten times as fast is shown to be faster; with that many it is."""
    assert blocks_needed(nodes) == needed
    for blocks, shown in ((needed - 1, False), (needed, True)):
        seconds = {str(n): times(n, blocks, 10.0 if n else 1.0, 0.01) for n in range(nodes)}
        first = [pair for pair in compare_paired(seconds, 0) if pair.left == "0"]
        assert all((pair.verdict == "faster") is shown for pair in first)


def test_ranks_count_who_is_shown_to_be_faster() -> None:
    """a is not told apart from b, nor b from c, but a is faster than c: a and b are first, c is second."""
    pairs = [
        Pair("a", "b", 1.1, 0.9, 1.3, 10),
        Pair("b", "c", 1.1, 0.9, 1.3, 10),
        Pair("a", "c", 1.2, 1.05, 1.4, 10),
    ]
    assert ranks(["a", "b", "c"], pairs) == {"a": 1, "b": 1, "c": 2}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.01, 1.3, "faster"),
        (0.5, 0.99, "slower"),
        (0.95, 1.05, "equal"),
        (0.8, 1.3, "unclear"),
        (None, None, "unclear"),
    ],
)
def test_a_verdict_is_the_intervals(low: float | None, high: float | None, verdict: str) -> None:
    """Equal is said only of an interval within 10 % of 1: not to be told apart is something else."""
    assert Pair("a", "b", 1.0, low, high, 10).verdict == verdict


def test_many_blocks_are_bounded_in_time() -> None:
    """A run of an hour is compared in seconds, and its small difference is found."""
    a, b = times(1, 20_000), times(2, 20_000, 1.02)
    assert compare_paired({"a": a, "b": b}, 0)[0].verdict == "faster"
    assert compare_unpaired({"a": a, "b": b}, 0)[0].verdict == "faster"


def test_drift_is_seen_and_noise_is_not() -> None:
    """Of 100 steady runs hardly one is called drifting; one that gets slower by half is."""
    steady = [drift(times(seed, 20), seed) for seed in range(100)]
    assert sum(pair is not None and pair.verdict in ("faster", "slower") for pair in steady) <= 10
    slowing = drift((np.array(times(1, 20)) * np.linspace(1, 1.5, 20)).tolist(), 0)
    assert slowing is not None
    assert slowing.verdict == "faster"
    assert drift([1.0] * 7, 0) is None
