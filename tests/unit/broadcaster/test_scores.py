"""What is measured of each node."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.scores import LOWEST_REPUTATION, Scores
from reelnet.errors import FailureClass
from reelnet.pipelines import Work

F = FailureClass
JOB = Work(1_000_000, 1)
runs = st.tuples(st.one_of(st.none(), st.sampled_from(F)), st.integers(1, 20))
outcomes = st.lists(runs, max_size=8).map(lambda history: [outcome for outcome, times in history for _ in range(times)])


def after(history: list[FailureClass | None]) -> Scores:
    """Scores of a node with that history; None is a success."""
    scores = Scores()
    for outcome in history:
        if outcome is None:
            scores.succeeded("n")
        else:
            scores.failed("n", outcome)
    return scores


@given(st.integers(0, 20), st.integers(0, 30), outcomes, st.sampled_from(F))
def test_a_failure_never_improves_a_score(
    good: int, bad: int, more: list[FailureClass | None], failure: FailureClass
) -> None:
    """Of whatever class, after whatever history."""
    scores = after([None] * good + [F.NODE] * bad + more)
    before = scores.reputation("n")
    scores.failed("n", failure)
    assert scores.reputation("n") <= before


def test_a_refusal_does_not_wash_failures_away() -> None:
    """A node that fails its jobs gains nothing by refusing others."""
    scores = after([None] * 5 + [F.NODE] * 12)
    before = scores.reputation("n")
    for _ in range(50):
        scores.failed("n", F.REFUSED)
    assert scores.reputation("n") <= before


@given(outcomes)
def test_a_success_never_worsens_a_score(history: list[FailureClass | None]) -> None:
    """And a reputation stays in its bounds."""
    scores = after(history)
    before = scores.reputation("n")
    scores.succeeded("n")
    assert before <= scores.reputation("n") <= 1
    assert before >= LOWEST_REPUTATION


@given(outcomes)
def test_one_nodes_failures_are_not_anothers(history: list[FailureClass | None]) -> None:
    """A node of which nothing is known starts at 1."""
    assert after(history).reputation("other") == 1


@pytest.mark.parametrize("failure", [F.USER, F.OOM, F.DEADLINE, F.CANCELED, F.BUSY])
def test_what_is_nobodys_fault_costs_nothing(failure: FailureClass) -> None:
    """A node is not blamed for the user, for memory that it never promised, for the caller, or for having no place."""
    assert after([failure] * 50).reputation("n") == 1
    assert after([F.NODE] + [failure] * 50).reputation("n") == after([F.NODE]).reputation("n")


@pytest.mark.parametrize("failure", [F.NODE, F.POISON, F.TRANSIENT])
def test_failures_cost(failure: FailureClass) -> None:
    """One is felt, ten in a row sink a node, twenty successes lift it again."""
    assert 0.5 < after([failure]).reputation("n") < 0.8
    assert after([failure] * 10).reputation("n") < 0.25
    assert after([failure] * 10 + [None] * 20).reputation("n") > 0.7


@pytest.mark.parametrize("failure", [F.REFUSED, F.UNSUPPORTED])
def test_a_refusal_costs_nothing_once(failure: FailureClass) -> None:
    """A node that refuses now and then stays where it is; one that refuses all that it advertises sinks."""
    assert after([failure]).reputation("n") > 0.95
    assert after([None, None, None, failure] * 10).reputation("n") > 0.95
    assert after([failure] * 100).reputation("n") < 0.6


def test_speed_is_learned() -> None:
    """A constant and a slope for each node, pipeline and model; one wild job is no matter."""
    scores = Scores()
    for megapixel_steps in (1, 10, 100) * 4:
        scores.took("n", "p", "m", Work(megapixel_steps * 1_000_000, 1), 1 + 0.1 * megapixel_steps)
    scores.took("n", "p", "m", JOB, 1000)
    assert scores.run_s("n", "p", "m", Work(20_000_000, 1)) == pytest.approx(3, rel=0.05)
    assert scores.run_s("n", "p", "other", JOB) == scores.run_s("n", "other", "m", JOB) == 0


def test_a_tiny_job_makes_no_node_slow() -> None:
    """Of two nodes that are as fast, the one that had a tiny job alone is not taken for many times as slow."""
    scores, usual = Scores(), Work(512 * 512 * 20, 1)
    scores.took("tiny", "p", "m", Work(64 * 64, 1), 0.1)
    scores.took("usual", "p", "m", usual, 0.4)
    assert scores.run_s("tiny", "p", "m", usual) == pytest.approx(0.4, rel=0.2)


def test_an_unmeasured_node_is_taken_for_the_median() -> None:
    """Neither the fastest, which would draw all jobs to it, nor the slowest, which would get none."""
    scores = Scores()
    for node, seconds in (("a", 1), ("b", 10), ("c", 1000)):
        scores.took(node, "p", "m", JOB, seconds)
    assert scores.run_s("new", "p", "m", JOB) == pytest.approx(10)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 100)), min_size=1, max_size=40))
def test_the_median_follows_every_measurement(measured: list[tuple[str, float]]) -> None:
    """An unmeasured node is the median of the others as they are now, however often each was measured."""
    scores = Scores()
    for node, seconds in measured:
        scores.took(node, "p", "m", JOB, seconds)
        assert scores.run_s("new", "p", "m", JOB) >= 0  # asked in between: nothing of it may be kept
    speeds = [scores.run_s(node, "p", "m", JOB) for node in {node for node, _ in measured}]
    assert scores.run_s("new", "p", "m", JOB) == statistics.median_high(speeds)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many nodes, models and amounts of work the newest are remembered; an unmeasured node is like the newest."""
    monkeypatch.setattr("broadcaster.scores.KEPT_OFFERS", 2)
    monkeypatch.setattr("broadcaster.scores.PEERS", 3)
    monkeypatch.setattr("broadcaster.scores.KEPT_USUAL", 4)
    scores = Scores()
    for model in ("old", "mid", "new"):
        for node in range(8):
            scores.took(f"{node}", "p", model, JOB, float(node))
    told = [scores.run_s("unmeasured", "p", model, JOB) for model in ("old", "mid", "new")]
    assert told == [0, pytest.approx(6), pytest.approx(6)]
    assert all(scores.run_s("unmeasured", "p", "new", Work(units, 1)) > 0 for units in range(1, 20))


def test_a_node_that_refused_for_long_comes_back() -> None:
    """Refusals weigh as much as failures at most, however many there were: with good work they are forgotten."""
    scores = after([F.REFUSED] * 10_000)
    assert scores.reputation("n") < 0.15
    for _ in range(60):
        scores.succeeded("n")
    assert scores.reputation("n") > 0.9
