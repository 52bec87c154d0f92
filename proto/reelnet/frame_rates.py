"""Frame rates: how people write them, and which frames a clip has at another one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_RATE_DENOMINATOR = 1001
"""Largest denominator of a rate: the one of television's 30000/1001."""
SNAP_PARTS = 32
"""A moment that is nearer to a source frame than one of so many parts of the time to the next is that frame's.

Containers that count in thousandths of a second tell moments that exactly, and no eye sees the rest.
"""
_WRITTEN = re.compile(r"(\d{1,9})/(\d{1,9})|\d{1,9}(?:\.\d{1,20})?", re.ASCII)


def parsed_rate(value: object) -> Fraction:
    """A rate from a number, or from text as "24", "29.97" or "30000/1001". Raises ValueError.

    Television's rates have short names: 29.97 means 30000/1001, as 23.976, 23.98 and 59.94 mean theirs.
    """
    if isinstance(value, Fraction):
        rate = value
    elif isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("expected frames a second, as 24, 29.97 or 30000/1001")
    else:
        rate = _read(str(value).strip())
    if rate.denominator > MAX_RATE_DENOMINATOR:
        raise ValueError(f"{value}: at most {MAX_RATE_DENOMINATOR} in the denominator")
    return rate


def _read(text: str) -> Fraction:
    match = _WRITTEN.fullmatch(text)
    if match is None or (match[2] and not int(match[2])):
        raise ValueError("expected frames a second, as 24, 29.97 or 30000/1001")
    if match[2]:
        return Fraction(int(match[1]), int(match[2]))
    exact, places = Fraction(text), len(text.partition(".")[2].rstrip("0"))
    television = Fraction(round(exact * 1001 / 1000) * 1000, 1001)
    if places >= 2 and abs(television - exact) <= Fraction(1, 2 * 10**places):
        return television
    return exact.limit_denominator(MAX_RATE_DENOMINATOR)


def written_rate(rate: Fraction) -> int | str:
    """A rate as JSON has it: a whole number, or text as "30000/1001"."""
    return rate.numerator if rate.denominator == 1 else f"{rate.numerator}/{rate.denominator}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """`frames` source frames, `source_fps` a second on average, become `count` frames at `target_fps`.

    Output frame k is what the source shows at k / `target_fps` seconds, made of the two frames around that moment. The
    last source frame is shown for `last_s` seconds, by default as long as the others, and is repeated for so long.
    """

    frames: int
    source_fps: Fraction
    target_fps: Fraction
    last_s: Fraction | None = None

    def __post_init__(self) -> None:
        if self.frames < 1 or self.source_fps <= 0 or self.target_fps <= 0 or (self.last_s or 1) <= 0:
            raise ValueError(f"{self}: a schedule needs a frame, and rates and lengths above 0")

    @property
    def length_s(self) -> Fraction:
        """Seconds from the first frame's start to the last one's end."""
        return (self.frames - 1) / self.source_fps + (self.last_s or 1 / self.source_fps)

    @property
    def count(self) -> int:
        """Output frames: the length × the target rate, rounded, and at least one."""
        return max(1, int(self.length_s * self.target_fps + Fraction(1, 2)))

    @property
    def made(self) -> int:
        """Output frames that the network makes where frames come evenly; jobs are priced by it."""
        step = self.source_fps / self.target_fps
        ups, whole = step.numerator, step.denominator
        within = (index * ups for index in range(self.count) if index * ups < (self.frames - 1) * whole)
        return sum(whole < at % whole * SNAP_PARTS < whole * (SNAP_PARTS - 1) for at in within)

    def moment_s(self, index: int) -> Fraction:
        """Seconds from the first frame to output frame `index`."""
        return index / self.target_fps
