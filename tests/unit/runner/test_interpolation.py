"""Which frames stand between which."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelnet.errors import CanceledError, UserError
from reelnet.frame_rates import SNAP_PARTS, Schedule
from runner.backend import Pixels
from runner.interpolation import Timed, interpolate

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


def source(count: int, fps: Fraction = Fraction(1)) -> Iterator[Timed]:
    """Pixels whose brightness is four times their number, `fps` a second."""
    return ((number / fps, np.full((2, 2, 3), 4 * number, np.uint8)) for number in range(count))


def test_a_clip_of_fourteen_frames_at_seven() -> None:
    """At 24 frames per second it has 48 frames: two seconds, as before, the last frame shown as long as it was."""
    schedule = Schedule(14, Fraction(7), Fraction(24))
    assert schedule.count == 48
    frames = list(interpolate(source(14, Fraction(7)), schedule, Blend(), Steps()))
    assert len(frames) == 48
    assert (frames[0] == 0).all()
    assert all((frame == 4 * 13).all() for frame in frames[45:])


@pytest.mark.parametrize(
    ("frames", "fps", "last_s", "target", "count"),
    [(4, 1, None, 24, 96), (4, 1, 3, 24, 144), (1, 1, None, 24, 24), (2, 30, None, 10, 1), (900, 60, None, 24, 360)],
)
def test_a_clip_is_as_long_as_before(frames: int, fps: int, last_s: int | None, target: int, count: int) -> None:
    """Four frames of a second each are four seconds, whatever the rate."""
    last = None if last_s is None else Fraction(last_s)
    assert Schedule(frames, Fraction(fps), Fraction(target), last).count == count


@given(SCHEDULES)
def test_the_length_changes_by_half_a_frame_at_most(schedule: Schedule) -> None:
    """Of the new rate; a clip that is shorter than that has one frame."""
    after = schedule.count / schedule.target_fps
    assert abs(after - schedule.length_s) <= 1 / (2 * schedule.target_fps) or schedule.count == 1


@given(st.integers(1, 40), RATES, st.integers(1, 5))
def test_a_whole_multiple_keeps_every_source_frame(frames: int, fps: Fraction, times: int) -> None:
    """Twice the rate, or three times, adds frames and changes none."""
    schedule = Schedule(frames, fps, fps * times)
    made = list(interpolate(source(frames, fps), schedule, Blend(), Steps()))
    assert len(made) == frames * times
    assert [int(frame[0, 0, 0]) for frame in made[::times]] == [4 * number for number in range(frames)]
    assert schedule.made == (frames - 1) * (times - 1)


@given(SCHEDULES)
def test_frames_are_those_of_their_moments(schedule: Schedule) -> None:
    """A network that mixes linearly gives a linear ramp; what is paid is what is made, and each step is told once."""
    net, steps = Blend(), Steps()
    frames = list(interpolate(source(schedule.frames, schedule.source_fps), schedule, net, steps))
    last = 4 * (schedule.frames - 1)
    expected = [min(last, float(4 * schedule.moment_s(n) * schedule.source_fps)) for n in range(schedule.count)]
    assert [int(frame[0, 0, 0]) for frame in frames] == pytest.approx(expected, abs=0.51 + 4 / SNAP_PARTS)
    assert net.made == schedule.made
    assert steps.seen == [("interpolate", n + 1, schedule.count) for n in range(schedule.count)]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), RATES)
def test_uneven_frames_are_shown_when_they_were(gaps_ms: list[int], target: Fraction) -> None:
    """By their times and not by their number: at each moment the new clip shows what the old one did."""
    starts = [Fraction(sum(gaps_ms[:n]), 1000) for n in range(len(gaps_ms))]
    span, last = starts[-1], Fraction(gaps_ms[-1], 1000)
    rate = (len(starts) - 1) / span if span else Fraction(1000, gaps_ms[0])
    schedule = Schedule(len(starts), rate, target, last)
    timed = ((start, np.full((2, 2, 3), min(255, float(start) * 20), np.uint8)) for start in starts)
    frames = list(interpolate(timed, schedule, Blend(), Steps()))
    expected = [min(255, 20 * float(min(span, schedule.moment_s(n)))) for n in range(schedule.count)]
    assert [int(frame[0, 0, 0]) for frame in frames] == pytest.approx(expected, abs=1.5 + 8 / SNAP_PARTS)


def test_times_in_thousandths_need_no_frames_between() -> None:
    """30 frames a second, as Matroska counts them, are frames of 60 a second without a mix of nearly equal ones."""
    timed = ((Fraction(round(1000 * n / 30), 1000), np.full((2, 2, 3), 4 * n, np.uint8)) for n in range(30))
    net = Blend()
    frames = list(interpolate(timed, Schedule(30, Fraction(29 * 1000, 967), Fraction(60)), net, Steps()))
    assert (len(frames), net.made) == (60, 29)
    assert [int(frame[0, 0, 0]) for frame in frames[:58:2]] == [4 * n for n in range(29)]


def test_no_more_than_two_source_frames_are_held() -> None:
    """A long video costs no more memory than a short one."""
    alive: list[weakref.ref[Pixels]] = []
    most = 0

    def watched() -> Iterator[Timed]:
        nonlocal most
        for start, frame in source(30, Fraction(10)):
            alive.append(weakref.ref(frame))
            yield start, frame
            del frame
            most = max(most, sum(ref() is not None for ref in alive))

    for _ in interpolate(watched(), Schedule(30, Fraction(10), Fraction(25)), Blend(), Steps()):
        pass
    assert len(alive) == 30
    assert most <= 2


def test_a_cancel_ends_it_at_the_frame() -> None:
    """Nothing is made after it."""
    net = Blend()
    timed, schedule = source(14, Fraction(7)), Schedule(14, Fraction(7), Fraction(24))
    frames = interpolate(timed, schedule, net, Steps(cancel_at=3))
    with pytest.raises(CanceledError):
        list(frames)
    assert net.made == 2


@pytest.mark.parametrize("found", [0, 5, 7])
def test_a_source_of_another_length_is_refused(found: int) -> None:
    """What was promised was counted; a video that has more or fewer frames is damaged."""
    with pytest.raises(UserError, match="6 frames"):
        list(interpolate(source(found, Fraction(6)), Schedule(6, Fraction(6), Fraction(12)), Blend(), Steps()))


@pytest.mark.parametrize(("frames", "source_fps", "target_fps"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (2, -1, 1)])
def test_a_schedule_without_frames_or_rates_is_none(frames: int, source_fps: int, target_fps: int) -> None:
    """It could promise nothing."""
    with pytest.raises(ValueError, match="rates and lengths above 0"):
        Schedule(frames, Fraction(source_fps), Fraction(target_fps))
