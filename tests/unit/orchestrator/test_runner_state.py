"""The states of a runner, and the pause before it is started again."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runner_state import TRANSITIONS, IllegalRunnerTransitionError, RunnerState, advance, backoff_s

S = RunnerState


@pytest.mark.parametrize(("state", "to"), list(itertools.product(S, S)), ids=lambda s: s.value)
def test_the_table_is_all_there_is(state: RunnerState, to: RunnerState) -> None:
    """advance() goes where the table says, and nowhere else."""
    if to in TRANSITIONS[state]:
        assert advance(state, to) is to
    else:
        with pytest.raises(IllegalRunnerTransitionError, match=f"from {state} to {to}"):
            advance(state, to)


@pytest.mark.parametrize("state", S)
def test_a_runner_can_always_be_started_again(state: RunnerState) -> None:
    """From every state a way leads back to READY: no runner is given up for ever."""
    reached = {state}
    while more := {to for s in reached for to in TRANSITIONS[s]} - reached:
        reached |= more
    assert S.READY in reached
    assert S.STOPPED in reached


def test_a_runner_that_works_was_ready() -> None:
    """A job is given to a ready runner only, and an end goes by STOPPING."""
    assert [state for state in S if S.BUSY in TRANSITIONS[state]] == [S.READY]
    assert S.STOPPING in TRANSITIONS[S.BUSY]
    assert TRANSITIONS[S.STOPPING] == {S.BACKOFF, S.QUARANTINED, S.STOPPED}
    assert not TRANSITIONS[S.BACKOFF] & {S.READY, S.BUSY, S.LOADING}


def test_the_pause_doubles() -> None:
    """Without jitter: half of first, twice, four times …, up to the longest."""
    pauses = [backoff_s(failures, 1, 60, 0.0) for failures in range(1, 10)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@given(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(10, 600), st.floats(0, 1, exclude_max=True))
def test_the_pause_is_bounded(failures: int, first_s: float, longest_s: float, jitter: float) -> None:
    """At least half of the full pause, never more than the longest, also after a year of failures."""
    full = min(longest_s, first_s * 2 ** min(failures - 1, 30))
    pause = backoff_s(failures, first_s, longest_s, jitter)
    assert full / 2 <= pause <= full <= longest_s
