"""Which frames stand between which."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelnet.errors import CanceledError, UserError
from reelnet.frame_rates import Schedule
from runner.backend import Pixels
from runner.interpolation import interpolate

RATES = st.fractions(min_value=Fraction(1), max_value=Fraction(120), max_denominator=1001)
SCHEDULES = st.builds(Schedule, st.integers(1, 60), RATES, RATES)


class Blend:
    """A network that mixes two frames, and counts what it is asked."""

    def __init__(self) -> None:
        self.pairs = 0
        self.made = 0

    def between(self, first: Pixels, second: Pixels) -> Blended:
        self.pairs += 1
        return Blended(self, first, second)


class Blended:
    def __init__(self, net: Blend, first: Pixels, second: Pixels) -> None:
        self._net, self._first, self._second = net, first, second

    def at(self, t: float) -> Pixels:
        assert 0 < t < 1
        self._net.made += 1
        mixed: Pixels = (self._first * (1 - t) + self._second * t).round().astype(np.uint8)
        return mixed


class Steps:
    """Notes steps; says at one of them that the job is canceled."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self._cancel_at = cancel_at

    def step(self, stage: str, step: int, total: int) -> None:
        self.seen.append((stage, step, total))
        if step == self._cancel_at:
            raise CanceledError("the caller left")


def source(count: int) -> Iterator[Pixels]:
    """Pixels whose brightness is four times their number."""
    return (np.full((2, 2, 3), 4 * number, np.uint8) for number in range(count))


def test_a_clip_of_fourteen_frames_at_seven() -> None:
    """At 24 frames per second it has 46 frames: about two seconds, as before."""
    schedule = Schedule(14, Fraction(7), Fraction(24))
    assert schedule.count == 46
    frames = list(interpolate(source(14), schedule, Blend(), Steps()))
    assert len(frames) == 46
    assert (frames[0] == 0).all()
    assert (frames[-1] == 4 * 13).all()


@given(SCHEDULES)
def test_both_ends_are_kept_and_time_goes_evenly(schedule: Schedule) -> None:
    """The end frames are source frames, all steps are equal, and no moment needs a frame that is not there."""
    moments = list(schedule)
    assert len(moments) == schedule.count
    assert (moments[0].first, moments[0].t) == (0, 0)
    assert (moments[-1].first, moments[-1].t) == (schedule.frames - 1, 0)
    assert all(0 <= moment.t < 1 for moment in moments)
    assert len({b.first + b.t - a.first - a.t for a, b in pairwise(moments)}) <= 1
    assert schedule.made == sum(moment.t != 0 for moment in moments)


@given(SCHEDULES)
def test_motion_keeps_its_speed(schedule: Schedule) -> None:
    """The time between the end frames changes by half a target frame at most, or two frames are left."""
    before = (schedule.frames - 1) / schedule.source_fps
    after = (schedule.count - 1) / schedule.target_fps
    assert abs(after - before) <= 1 / (2 * schedule.target_fps) or schedule.count == 2


@given(st.integers(1, 40), RATES, st.integers(1, 5))
def test_a_whole_multiple_keeps_every_source_frame(frames: int, fps: Fraction, times: int) -> None:
    """Twice the rate, or three times, adds frames and changes none."""
    moments = list(Schedule(frames, fps, fps * times))
    assert [moment.first for moment in moments if moment.exact] == list(range(frames))
    assert len(moments) == (frames - 1) * times + 1


@given(SCHEDULES)
def test_frames_are_those_of_the_schedule(schedule: Schedule) -> None:
    """A network that mixes linearly gives a linear ramp; each pair is compared once, each step told once."""
    net, steps = Blend(), Steps()
    frames = list(interpolate(source(schedule.frames), schedule, net, steps))
    expected = [float(4 * (moment.first + moment.t)) for moment in schedule]
    assert [int(frame[0, 0, 0]) for frame in frames] == pytest.approx(expected, abs=0.51)
    assert net.made == schedule.made
    assert net.pairs == len({moment.first for moment in schedule if not moment.exact})
    assert steps.seen == [("interpolate", n + 1, schedule.count) for n in range(schedule.count)]


def test_no_more_than_two_source_frames_are_held() -> None:
    """A long video costs no more memory than a short one."""
    alive: list[weakref.ref[Pixels]] = []
    most = 0

    def watched() -> Iterator[Pixels]:
        nonlocal most
        for frame in source(30):
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            most = max(most, sum(ref() is not None for ref in alive))

    for _ in interpolate(watched(), Schedule(30, Fraction(10), Fraction(25)), Blend(), Steps()):
        pass
    assert len(alive) == 30
    assert most <= 2


def test_a_cancel_ends_it_at_the_frame() -> None:
    """Nothing is made after it."""
    net = Blend()
    frames = interpolate(source(14), Schedule(14, Fraction(7), Fraction(24)), net, Steps(cancel_at=3))
    with pytest.raises(CanceledError):
        list(frames)
    assert net.made == 2


@pytest.mark.parametrize("found", [0, 5, 7])
def test_a_source_of_another_length_is_refused(found: int) -> None:
    """What was promised was counted; a video that has more or fewer frames is damaged."""
    frames = interpolate(source(found), Schedule(6, Fraction(6), Fraction(12)), Blend(), Steps())
    with pytest.raises(UserError, match="6 frames"):
        list(frames)


@pytest.mark.parametrize(("frames", "source_fps", "target_fps"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (2, -1, 1)])
def test_a_schedule_without_frames_or_rates_is_none(frames: int, source_fps: int, target_fps: int) -> None:
    """It could promise nothing."""
    with pytest.raises(ValueError, match="rates above 0"):
        Schedule(frames, Fraction(source_fps), Fraction(target_fps))


def test_only_frames_of_the_schedule_have_a_moment() -> None:
    """An index beyond the end is an error of the caller."""
    with pytest.raises(IndexError):
        Schedule(3, Fraction(1), Fraction(1)).moment(3)
