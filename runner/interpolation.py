"""From one frame rate to another: which frames stand between which, and the making of them one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from reelnet.errors import UserError
from runner.backend import Frames, Reporter

STAGE = "interpolate"


class Between(Protocol):
    """Two frames that a network has compared, and all moments between them."""

    def at(self, t: float) -> Frames:
        """The frame at `t`, 0 < t < 1, shape (height, width, 3)."""


class Interpolator(Protocol):
    """A network that makes frames between two."""

    def between(self, first: Frames, second: Frames) -> Between:
        """Compares two frames of equal shape (height, width, 3)."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When an output frame is: `t` of the way from source frame `first` to the next; 0 is that frame itself."""

    first: int
    t: Fraction

    @property
    def exact(self) -> bool:
        """Whether a source frame stands there."""
        return not self.t


@dataclass(frozen=True, slots=True)
class Schedule:
    """`frames` source frames at `source_fps` become `count` frames at `target_fps`, with the same speed of motion.

    The first and the last frame stay as they are; the others are spread evenly between them. The time from the first
    to the last frame changes by at most half a target frame, unless two frames alone are left.
    """

    frames: int
    source_fps: Fraction
    target_fps: Fraction

    def __post_init__(self) -> None:
        if self.frames < 1 or self.source_fps <= 0 or self.target_fps <= 0:
            raise ValueError(f"{self}: a schedule needs a frame and rates above 0")

    @property
    def count(self) -> int:
        """Output frames: round(time between the end frames × target rate) + 1, and no end frame is dropped."""
        if self.frames == 1:
            return 1
        gaps = (self.frames - 1) * self.target_fps / self.source_fps
        return max(1, int(gaps + Fraction(1, 2))) + 1

    @property
    def made(self) -> int:
        """Output frames that the network has to make."""
        return self.count - 1 - math.gcd(self.frames - 1, self.count - 1) if self.count > 1 else 0

    def moment(self, index: int) -> Moment:
        """The moment of output frame `index`, 0 ≤ index < count."""
        if not 0 <= index < self.count:
            raise IndexError(f"frame {index} of {self.count}")
        if index == 0:
            return Moment(0, Fraction(0))
        place = Fraction(index * (self.frames - 1), self.count - 1)
        first = place.numerator // place.denominator
        return Moment(first, place - first)

    def __iter__(self) -> Iterator[Moment]:
        """The moments of all output frames, in their order."""
        return map(self.moment, range(self.count))


def interpolate(frames: Iterable[Frames], schedule: Schedule, net: Interpolator, report: Reporter) -> Iterator[Frames]:
    """The schedule's frames one by one, with no more than two source frames held.

    `report` hears of each output frame and may raise, which ends it there. Raises UserError when the source has not
    as many frames as the schedule says.
    """
    pair = _Pair(iter(frames), schedule.frames)
    for index, moment in enumerate(schedule):
        pair.move_to(moment.first, exact=moment.exact)
        frame = pair.first if moment.exact else pair.compared(net).at(float(moment.t))
        report.step(STAGE, index + 1, schedule.count)
        yield frame
    pair.finish()


class _Pair:
    """A window of two frames over a source that can be read once."""

    def __init__(self, source: Iterator[Frames], promised: int) -> None:
        self._source = source
        self._promised = promised
        self._read = 0
        self._between: Between | None = None
        self._second: Frames | None = None
        self.first = self._next()

    def move_to(self, first: int, *, exact: bool) -> None:
        """Makes source frame `first` the first of the pair, and reads the next one unless the first is enough."""
        while self._at < first:
            self.first = self._next() if self._second is None else self._second
            self._second = self._between = None
        if not exact and self._second is None:
            self._second = self._next()

    def compared(self, net: Interpolator) -> Between:
        """What the network finds between the two frames; compared once."""
        assert self._second is not None, "move_to has read it"
        if self._between is None:
            self._between = net.between(self.first, self._second)
        return self._between

    def finish(self) -> None:
        """Raises UserError when the source goes on."""
        if next(self._source, None) is not None:
            raise _miscounted(self._promised)

    @property
    def _at(self) -> int:
        return self._read - (1 if self._second is None else 2)

    def _next(self) -> Frames:
        frame = next(self._source, None)
        if frame is None:
            raise _miscounted(self._promised)
        self._read += 1
        return frame


def _miscounted(promised: int) -> UserError:
    return UserError(
        f"video: it does not have the {promised} frames that were counted; it is damaged, encode it again",
        code="media_damaged",
        loc=("video",),
        http_status=415,
    )
