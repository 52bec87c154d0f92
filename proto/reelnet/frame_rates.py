"""From one frame rate to another: which frames there will be, and between which of the source each of them stands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction


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
