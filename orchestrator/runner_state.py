"""The states of a runner as its supervisor sees them, in one table."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType


class RunnerState(enum.StrEnum):
    """STARTING: the engine starts it. LOADING: it answers, its model does not yet. READY: it may get a job.

    BUSY: a job holds it. STOPPING: it is being ended. BACKOFF: it failed and waits for its next start.
    QUARANTINED: it, or its device, failed too often or for good, and waits longer, or for the operator.
    STOPPED: it is not wanted now: no device has it.
    """

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    QUARANTINED = "quarantined"
    STOPPED = "stopped"


_S = RunnerState
TRANSITIONS: Mapping[RunnerState, frozenset[RunnerState]] = MappingProxyType(
    {
        _S.STARTING: frozenset({_S.LOADING, _S.READY, _S.STOPPING}),
        _S.LOADING: frozenset({_S.READY, _S.STOPPING}),
        _S.READY: frozenset({_S.BUSY, _S.STOPPING}),
        _S.BUSY: frozenset({_S.READY, _S.STOPPING}),
        _S.STOPPING: frozenset({_S.BACKOFF, _S.QUARANTINED, _S.STOPPED}),
        _S.BACKOFF: frozenset({_S.STARTING, _S.QUARANTINED, _S.STOPPED}),
        _S.QUARANTINED: frozenset({_S.STARTING, _S.STOPPED}),
        _S.STOPPED: frozenset({_S.STARTING, _S.QUARANTINED}),
    }
)


class IllegalRunnerTransitionError(RuntimeError):
    """A runner was told to go where its state does not lead: a fault of this program."""


def advance(state: RunnerState, to: RunnerState) -> RunnerState:
    """`to`, if the table allows it from `state`. Raises IllegalRunnerTransitionError otherwise."""
    if to not in TRANSITIONS[state]:
        raise IllegalRunnerTransitionError(f"a runner cannot go from {state} to {to}")
    return to


def backoff_s(failures: int, first_s: float, longest_s: float, jitter: float) -> float:
    """Pause before the next start after `failures` in a row: doubling, bounded, with `jitter` in [0, 1) of the half."""
    full = min(longest_s, first_s * 2.0 ** min(failures - 1, 30))
    return full / 2 + full / 2 * jitter
