"""When events go to a follower, and which go together."""

from __future__ import annotations

import pytest

from orchestrator import parcel as parcels
from orchestrator.parcel import Parcel
from orchestrator.settings import Limits
from reelnet.jobs import Accepted, Done, Preview, Progress, Queued, Started

LIMITS = Limits(hold_s=0.002, progress_s=0.1, heartbeat_s=10)


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(parcels, "time", clock)
    return clock


def test_a_follower_in_the_queue_looks_now_and_then(clock: Clock) -> None:
    """However long nothing was told: a queue of hundreds must not keep the node busy."""
    parcel = Parcel(LIMITS)
    parcel.add(Accepted(3, 1.0, 1), urgent=True)
    parcel.take()
    for _ in range(50):
        assert parcel.patience_s(queued=True) == pytest.approx(LIMITS.progress_s)
        clock.now += LIMITS.progress_s
    parcel.latest = Queued(2, 1.0)
    assert parcel.due


def test_what_nobody_waits_for_is_held_for_company(clock: Clock) -> None:
    """For a moment only, and progress before a milestone is history."""
    parcel = Parcel(LIMITS)
    parcel.latest = Progress("denoise", 1, 2)
    parcel.add(Started(), urgent=False)
    assert (parcel.due, parcel.latest) == (False, None)
    assert parcel.patience_s(queued=False) == pytest.approx(LIMITS.hold_s)
    clock.now += LIMITS.hold_s
    assert parcel.due
    parcel.add(Done({}, 1, "", {}), urgent=True)
    assert parcel.take() == [Started(), Done({}, 1, "", {})]
    assert not parcel.due


def test_a_silent_job_gives_a_sign_of_life(clock: Clock) -> None:
    """After the heartbeat's time the last progress comes again."""
    parcel = Parcel(LIMITS)
    parcel.latest = Progress("denoise", 1, 2)
    clock.now += LIMITS.progress_s
    assert parcel.take() == [Progress("denoise", 1, 2)]
    clock.now += LIMITS.heartbeat_s - 0.01
    parcel.beat()
    assert not parcel.due
    clock.now += 0.02
    parcel.beat()
    assert parcel.take() == [Progress("denoise", 1, 2)]


def test_a_preview_goes_beside_progress_and_once(clock: Clock) -> None:
    """Neither replaces the other; a sign of life is progress again, never a preview."""
    parcel = Parcel(LIMITS)
    parcel.latest = Progress("denoise", 3, 9)
    parcel.preview = Preview(b"jpeg", 0, 3, 9)
    assert not parcel.due
    clock.now += LIMITS.progress_s
    assert parcel.due
    assert parcel.take() == [Progress("denoise", 3, 9), Preview(b"jpeg", 0, 3, 9)]
    clock.now += LIMITS.heartbeat_s
    parcel.beat()
    assert parcel.take() == [Progress("denoise", 3, 9)]


def test_a_preview_is_due_by_itself_and_history_before_a_milestone(clock: Clock) -> None:
    """It waits for as long as progress does."""
    parcel = Parcel(LIMITS)
    parcel.preview = Preview(b"jpeg", 0, 3, 9)
    assert parcel.patience_s(queued=False) == pytest.approx(LIMITS.progress_s)
    parcel.add(Done({}, 1, "", {}), urgent=True)
    assert parcel.take() == [Done({}, 1, "", {})]
