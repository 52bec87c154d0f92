"""A large picture through a model that takes small ones: tiles that overlap, blended so that no seam is to be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from runner.backend import Pixels

Floats = npt.NDArray[np.float32]
"""A picture in 0…1, shape (height, width, 3)."""
Enlarge = Callable[[Floats], Floats]
Ticked = Callable[[int, int], None]
"""Hears of the count of tiles that are done, and of all; what it raises stops the picture."""


@dataclass(frozen=True, slots=True)
class Span:
    """A tile along one side, pixels of the input: it covers start to stop, and is alone to count from `low` to `high`.

    Before `low` and from `high` on it fades, over twice `fade` pixels that have the seam in their middle.
    """

    start: int
    stop: int
    low: int
    high: int
    fade: int

    def weights(self, factor: int) -> Floats:
        """How much each pixel of the enlarged tile counts; the weights of all spans are 1 in sum everywhere."""
        at = self.start + (np.arange((self.stop - self.start) * factor) + 0.5) / factor
        rising = _ramp(at, self.low, self.fade) if self.low > self.start else np.ones_like(at)
        falling = 1 - _ramp(at, self.high, self.fade) if self.high < self.stop else np.ones_like(at)
        return (rising * falling).astype(np.float32)


def spans(length: int, tile: int, overlap: int) -> tuple[Span, ...]:
    """Tiles of at most `tile` pixels along a side of `length`; each has `overlap` more pixels around its own part.

    The parts are of one size, as nearly as whole pixels allow. Small tiles overlap by a quarter of their side.
    """
    overlap = min(overlap, tile // 4)
    if length <= tile or overlap < 1:
        return (Span(0, length, 0, length, 0),) if length <= tile else _cells(length, tile, 0)
    return _cells(length, tile - 2 * overlap, overlap)


def count(pixels: Pixels, tile: int, overlap: int) -> int:
    """How many tiles a picture is made of."""
    height, width = pixels.shape[:2]
    return len(spans(height, tile, overlap)) * len(spans(width, tile, overlap))


def enlarged(pixels: Pixels, enlarge: Enlarge, factor: int, sides: tuple[int, int], ticked: Ticked) -> Pixels:
    """The picture, `factor` times as wide and high; `sides` are those of a tile and of the overlap, input pixels.

    Beside the result it holds one row of tiles in floats.
    """
    height, width = pixels.shape[:2]
    rows, columns = spans(height, *sides), spans(width, *sides)
    result: Pixels = np.empty((height * factor, width * factor, 3), np.uint8)
    carried = np.zeros((0, width * factor, 3), np.float32)
    ends = [row.start for row in rows[1:]] + [height]
    done = 0
    for row, end in zip(rows, ends, strict=True):
        strip = np.zeros(((row.stop - row.start) * factor, width * factor, 3), np.float32)
        strip[: len(carried)] = carried
        for column in columns:
            _add(strip, _tile(pixels, row, column, enlarge), row, column, factor)
            done += 1
            ticked(done, len(rows) * len(columns))
        whole = (end - row.start) * factor
        result[row.start * factor : end * factor] = as_bytes(strip[:whole])
        carried = strip[whole:]
    return result


def as_bytes(picture: Floats) -> Pixels:
    """Floats in 0…1 as bytes."""
    return (picture * 255).round().clip(0, 255).astype(np.uint8)


def _tile(pixels: Pixels, row: Span, column: Span, enlarge: Enlarge) -> Floats:
    piece = pixels[row.start : row.stop, column.start : column.stop]
    return enlarge(np.ascontiguousarray(piece, np.float32) / np.float32(255))


def _add(strip: Floats, tile: Floats, row: Span, column: Span, factor: int) -> None:
    weights = row.weights(factor)[:, None, None] * column.weights(factor)[None, :, None]
    strip[:, column.start * factor : column.stop * factor] += tile * weights


def _cells(length: int, most: int, overlap: int) -> tuple[Span, ...]:
    parts = -(-length // most)
    edges = [length * n // parts for n in range(parts + 1)]
    return tuple(_span(low, high, length, overlap) for low, high in pairwise(edges))


def _span(low: int, high: int, length: int, overlap: int) -> Span:
    return Span(max(0, low - overlap), min(length, high + overlap), low, high, overlap // 2)


def _ramp(at: npt.NDArray[np.float64], seam: int, fade: int) -> npt.NDArray[np.float64]:
    """From 0 to 1 around the seam."""
    if fade < 1:
        return (at >= seam).astype(np.float64)
    return np.asarray(((at - (seam - fade)) / (2 * fade)).clip(0, 1))
