"""The states of a job."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from reelnet.jobs import TERMINAL, TRANSITIONS, IllegalTransitionError, JobState, advance, run_s

S = JobState
PAIRS = list(itertools.product(JobState, JobState))
ALLOWED = {
    (S.QUEUED, S.ASSIGNED),
    (S.ASSIGNED, S.RUNNING),
    (S.RUNNING, S.SUCCEEDED),
    (S.ASSIGNED, S.QUEUED),
    (S.RUNNING, S.QUEUED),
    *itertools.product((S.QUEUED, S.ASSIGNED, S.RUNNING), (S.FAILED, S.CANCELED, S.EXPIRED)),
}
"""The design's table, written down a second time."""


class JobLife(RuleBasedStateMachine):
    """A job that is told to go anywhere: only the table's steps move it."""

    def __init__(self) -> None:
        super().__init__()
        self.state = S.QUEUED
        self.terminals: list[JobState] = []

    @rule(to=st.sampled_from(JobState))
    def told(self, to: JobState) -> None:
        if (self.state, to) in ALLOWED:
            self.state = advance(self.state, to)
            assert self.state is to
            if to in TERMINAL:
                self.terminals.append(to)
        else:
            before = self.state
            with pytest.raises(IllegalTransitionError, match=f"from {before} to {to}"):
                advance(before, to)

    @precondition(lambda self: self.state not in TERMINAL)
    @rule(data=st.data())
    def goes_on(self, data: st.DataObject) -> None:
        to = data.draw(st.sampled_from(sorted(TRANSITIONS[self.state])))
        self.told(to)

    @invariant()
    def one_end(self) -> None:
        assert len(self.terminals) == (1 if self.state in TERMINAL else 0)

    def teardown(self) -> None:
        """A job that has not ended yet can still end: its deadline is a way out of every state."""
        if self.state not in TERMINAL:
            self.told(S.EXPIRED)
        self.one_end()


TestJobLife = JobLife.TestCase
TestJobLife.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize(("state", "to"), PAIRS, ids=lambda s: s.value)
def test_the_table_is_the_designs(state: JobState, to: JobState) -> None:
    """A step is allowed exactly where the design says so; a job does not go to the state where it is."""
    assert (to in TRANSITIONS[state]) is ((state, to) in ALLOWED)


def test_every_state_is_reached_and_left() -> None:
    """Every state can be reached from QUEUED, and leads to a terminal one, which leads nowhere."""
    reached = {S.QUEUED}
    while more := {to for state in reached for to in TRANSITIONS[state]} - reached:
        reached |= more
    assert reached == set(JobState)
    for state in JobState:
        assert bool(TRANSITIONS[state] & TERMINAL) is (state not in TERMINAL)
        assert (TRANSITIONS[state] == frozenset()) is (state in TERMINAL)


def test_the_table_cannot_be_changed() -> None:
    """Nobody adds a way at run time."""
    with pytest.raises(TypeError):
        TRANSITIONS[S.FAILED] = frozenset({S.QUEUED})  # type: ignore[index]


@pytest.mark.parametrize(
    ("heard_s", "claimed_s", "whole_s", "ran_s"),
    [
        (2.0, 2.003, 3.0, 2.003),  # `started` was held for 3 ms
        (2.0, 9.0, 3.0, 2.005),  # a boast is believed for as long as an event may be held
        (2.0, 0.1, 3.0, 2.0),  # no word makes a run shorter than it was heard
        (0.0, 0.001, 0.004, 0.001),  # all in one message
        (0.0, 0.0, 0.004, 0.004),  # and a node that says nothing took all of the time
    ],
)
def test_a_run_is_as_long_as_it_was_heard(heard_s: float, claimed_s: float, whole_s: float, ran_s: float) -> None:
    """A node's word fills in what its events were held for, and no more; never 0."""
    assert run_s(heard_s, claimed_s, whole_s) == pytest.approx(ran_s)
