"""A schedule's frames, made one after the other from those of a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Protocol

from reelnet.errors import UserError
from reelnet.frame_rates import SNAP_PARTS, Schedule
from runner.backend import Pixels, Reporter

STAGE = "interpolate"


class Between(Protocol):
    """Two frames that a network has compared, and all moments between them."""

    def at(self, t: float) -> Pixels:
        """The frame at `t`, 0 < t < 1, shape (height, width, 3)."""


class Interpolator(Protocol):
    """A network that makes frames between two."""

    def between(self, first: Pixels, second: Pixels) -> Between:
        """Compares two frames of equal shape (height, width, 3)."""


Timed = tuple[Fraction, Pixels]
"""A frame, and the seconds from the first one's start to its own."""


def interpolate(frames: Iterable[Timed], schedule: Schedule, net: Interpolator, report: Reporter) -> Iterator[Pixels]:
    """The schedule's frames one by one, with no more than two source frames held.

    `report` hears of each output frame and may raise, which ends it there. Raises UserError when the source has not
    as many frames as the schedule says.
    """
    pair = _Pair(iter(frames), schedule.frames)
    for index in range(schedule.count):
        frame = pair.at(schedule.moment_s(index), net)
        report.step(STAGE, index + 1, schedule.count)
        yield frame
    pair.finish()


class _Pair:
    """A window of two frames over a source that can be read once. At its end the last frame stays."""

    def __init__(self, source: Iterator[Timed], promised: int) -> None:
        self._source = source
        self._promised = promised
        self._read = 0
        self._between: Between | None = None
        first = self._next()
        if first is None:
            raise _miscounted(promised)
        self._first: Timed = first
        self._second = self._next()

    def at(self, moment_s: Fraction, net: Interpolator) -> Pixels:
        """The frame at a moment, which is no earlier than the one before: a source frame where one is near enough."""
        while self._second and moment_s >= self._second[0]:
            self._advance()
        if self._second is None:
            return self._first[1]
        (start, first), (end, second) = self._first, self._second
        part = (moment_s - start) / (end - start)
        if part * SNAP_PARTS <= 1:
            return first
        if (1 - part) * SNAP_PARTS <= 1:
            return second
        if self._between is None:
            self._between = net.between(first, second)
        return self._between.at(float(part))

    def finish(self) -> None:
        """Reads the source to its end. Raises UserError when it has another count of frames than was promised."""
        while self._second:
            self._advance()
        if self._read != self._promised:
            raise _miscounted(self._promised)

    def _advance(self) -> None:
        assert self._second is not None, "there is one to go to"
        self._first, self._second, self._between = self._second, self._next(), None

    def _next(self) -> Timed | None:
        frame = next(self._source, None)
        self._read += frame is not None
        return frame


def _miscounted(promised: int) -> UserError:
    return UserError(
        f"video: it does not have the {promised} frames that were counted; it is damaged, encode it again",
        code="media_damaged",
        loc=("video",),
        http_status=415,
    )
