"""A schedule's frames, made one after the other from those of a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from reelnet.errors import UserError
from reelnet.frame_rates import Schedule
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


def interpolate(frames: Iterable[Pixels], schedule: Schedule, net: Interpolator, report: Reporter) -> Iterator[Pixels]:
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

    def __init__(self, source: Iterator[Pixels], promised: int) -> None:
        self._source = source
        self._promised = promised
        self._read = 0
        self._between: Between | None = None
        self._second: Pixels | None = None
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

    def _next(self) -> Pixels:
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
