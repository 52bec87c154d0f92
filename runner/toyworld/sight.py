"""What a picture or a clip of the toy world shows, read from its pixels alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runner.toyworld.scenes import COLOURS, PALETTE, PLACES, SHAPES, SIZES, Pixels, mask

_RIM = 2
"""Pixels at the border that are taken for ground."""
_OTHER = 0.25
"""Distance in colour, of √3, from which a pixel is not the ground's."""
_LEAST = 0.004
"""Part of the picture that a shape covers at least."""
_STILL = 0.08
"""Parts of the side that a shape moves at least, or it stays."""
_SHIFTS = (-0.015, 0.0, 0.015)
_STRETCHES = (0.94, 1.0, 1.06)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a picture shows; the names are empty where there is no shape."""

    shape: str
    colour: str
    ground: str
    place: str
    size: str
    overlap: float
    """Of the shape found with that shape drawn ideally: intersection over union."""
    colour_error: float
    """The largest distance of the two colours from the palette's, in one channel, of 255."""
    middle: tuple[float, float]
    """Of the pixels that the shape covers, x to the right and y downwards, as parts of the side."""


def look(picture: Pixels) -> Seen:
    """What a square picture, (side, side, 3) in 0…1, shows. It knows nothing of what was asked."""
    side = len(picture)
    ground = np.median(np.concatenate([part.reshape(-1, 3) for part in _rims(picture)]), axis=0)
    away = np.linalg.norm(picture - ground, axis=2)
    if np.mean(away > _OTHER) < _LEAST:
        return Seen("", "", _name(ground), "", "", 0.0, 255.0, (0.5, 0.5))
    colour = np.median(picture[away > 0.7 * np.quantile(away, 0.99)], axis=0)
    towards = colour - ground
    covered = (picture - ground) @ towards > 0.5 * (towards @ towards)
    rows, columns = np.nonzero(covered)
    middle = (float(columns.mean() + 0.5) / side, float(rows.mean() + 0.5) / side)
    shape, radius, overlap = _best_shape(covered, middle)
    error = max(np.abs(paint - PALETTE[_nearest(paint)]).max() for paint in (colour, ground)) * 255
    return Seen(
        shape,
        _name(colour),
        _name(ground),
        min(PLACES, key=lambda name: np.hypot(PLACES[name][0] - middle[0], PLACES[name][1] - middle[1])),
        min(SIZES, key=lambda name: abs(np.log(SIZES[name] / radius))),
        overlap,
        float(error),
        middle,
    )


def _rims(picture: Pixels) -> tuple[Pixels, ...]:
    return picture[:_RIM], picture[-_RIM:], picture[:, :_RIM], picture[:, -_RIM:]


def _nearest(paint: Pixels) -> int:
    return int(np.argmin(np.linalg.norm(PALETTE - paint, axis=1)))


def _name(paint: Pixels) -> str:
    return list(COLOURS)[_nearest(paint)]


def _best_shape(covered: npt.NDArray[np.bool_], middle: tuple[float, float]) -> tuple[str, float, float]:
    """The shape that, drawn as large as the covered area around its middle, covers the same pixels best."""
    best = ("", 1.0, -1.0)
    for shape in SHAPES:
        area, (x, y) = _BUILD[shape]
        size = float(np.sqrt(covered.mean() / area))
        for radius in (size * stretch for stretch in _STRETCHES):
            for dx, dy in ((dx, dy) for dx in _SHIFTS for dy in _SHIFTS):
                ideal = (
                    mask(shape, (middle[0] - x * radius + dx, middle[1] - y * radius + dy), radius, len(covered)) > 0.5
                )
                overlap = float((covered & ideal).sum() / max((covered | ideal).sum(), 1))
                if overlap > best[2]:
                    best = (shape, radius, overlap)
    return best


def _build(shape: str) -> tuple[float, tuple[float, float]]:
    """Area of a shape of radius 1, and the mean of its points as seen from its middle."""
    radius, side = 0.3, 256
    whole = mask(shape, (0.5, 0.5), radius, side)
    at = ((np.arange(side) + 0.5) / side - 0.5) / radius
    x, y = float((whole.sum(0) * at).sum() / whole.sum()), float((whole.sum(1) * at).sum() / whole.sum())
    return float(whole.mean() / radius**2), (x, y)


_BUILD = {shape: _build(shape) for shape in SHAPES}


@dataclass(frozen=True, slots=True)
class Walk:
    """What a clip shows: a shape on a ground, and the shape's middle in each frame, as parts of the side.

    A name is empty where the frames do not all show the same.
    """

    shape: str
    colour: str
    ground: str
    middles: tuple[tuple[float, float], ...]

    @property
    def way(self) -> tuple[float, float]:
        """From the first frame to the last, x to the right and y downwards."""
        (x, y), (end_x, end_y) = self.middles[0], self.middles[-1]
        return end_x - x, end_y - y

    @property
    def heading(self) -> str:
        """`left`, `right`, `up` or `down`, whichever its way is most; empty where it stays."""
        x, y = self.way
        if max(abs(x), abs(y)) < _STILL:
            return ""
        return ("right" if x > 0 else "left") if abs(x) > abs(y) else ("down" if y > 0 else "up")

    @property
    def steps(self) -> tuple[float, ...]:
        """How far the shape gets along its heading from frame to frame; less than 0 is backwards."""
        along = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1), "": (0, 0)}[self.heading]
        return tuple((b[0] - a[0]) * along[0] + (b[1] - a[1]) * along[1] for a, b in itertools.pairwise(self.middles))


def follow(frames: Sequence[Pixels]) -> Walk:
    """What the frames of a clip show, each looked at by itself."""
    seen = [look(frame) for frame in frames]

    def common(names: set[str]) -> str:
        return names.pop() if len(names) == 1 else ""

    return Walk(
        common({each.shape for each in seen}),
        common({each.colour for each in seen}),
        common({each.ground for each in seen}),
        tuple(each.middle for each in seen),
    )
