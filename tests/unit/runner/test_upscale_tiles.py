"""Tiles: what covers a picture, and what is to be seen of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelnet.errors import CanceledError
from runner.backend import Pixels
from runner.upscale_tiles import Floats, count, enlarged, spans
from tests.fakes.media import pattern

FACTOR = 4


def repeated(picture: Floats) -> Floats:
    """Each pixel as a square: what no tile's border changes."""
    return picture.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1)


def dark_at_its_borders(picture: Floats, border: int = 8) -> Floats:
    """As `repeated`, but black near its own borders: what a model does that sees no further."""
    large = repeated(picture)
    edge = border * FACTOR
    large[:edge], large[-edge:], large[:, :edge], large[:, -edge:] = 0, 0, 0, 0
    return large


def quiet(done: int, total: int) -> None:
    """Hears and says nothing."""


@given(length=st.integers(1, 3000), tile=st.integers(16, 600), overlap=st.integers(0, 64))
def test_tiles_cover_a_side_and_count_once(length: int, tile: int, overlap: int) -> None:
    """Every pixel is in a tile, no tile is larger than asked, and the weights are 1 in sum."""
    found = spans(length, tile, overlap)
    assert (found[0].start, found[-1].stop) == (0, length)
    assert all(0 < span.stop - span.start <= tile for span in found)
    assert all(a.high == b.low for a, b in itertools.pairwise(found))
    total = np.zeros(length * 2, np.float64)
    for span in found:
        total[span.start * 2 : span.stop * 2] += span.weights(2)
    assert np.allclose(total, 1, atol=1e-5)


@pytest.mark.parametrize(("tile", "overlap"), [(64, 16), (48, 32), (200, 8), (1000, 32), (33, 0), (7, 1)])
def test_tiles_give_what_the_whole_gives(tile: int, overlap: int) -> None:
    """Where a pixel depends on itself alone, the tiled picture is the untiled one exactly."""
    pixels = np.asarray(pattern(150, 70))
    whole = pixels.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1)
    assert (enlarged(pixels, repeated, FACTOR, (tile, overlap), quiet) == whole).all()


def test_a_tile_s_own_borders_are_not_seen() -> None:
    """What a model spoils at a tile's border is left out: only the picture's own border shows it."""
    pixels: Pixels = np.full((150, 200, 3), 200, np.uint8)
    large = enlarged(pixels, dark_at_its_borders, FACTOR, (64, 16), quiet)
    inside = large[8 * FACTOR : -8 * FACTOR, 8 * FACTOR : -8 * FACTOR]
    assert (inside == 200).all()
    assert (large[: 8 * FACTOR] == 0).all()


def test_a_model_that_differs_from_tile_to_tile_shows_no_step() -> None:
    """Two neighbours of other brightness fade into each other over the overlap."""
    levels = itertools.count()

    def brighter(picture: Floats) -> Floats:
        return np.full_like(repeated(picture), 0.2 + 0.2 * next(levels))

    pixels: Pixels = np.zeros((32, 80, 3), np.uint8)
    row = enlarged(pixels, brighter, FACTOR, (64, 16), quiet)[10, :, 0].astype(int)
    assert row[-1] - row[0] > 40
    assert np.abs(np.diff(row)).max() <= 2


def test_no_tile_is_larger_than_asked() -> None:
    """The model sees pieces of at most the asked side: that is what bounds its memory."""
    seen: list[tuple[int, ...]] = []

    def watched(picture: Floats) -> Floats:
        seen.append(picture.shape)
        return repeated(picture)

    pixels = np.asarray(pattern(130, 90))
    enlarged(pixels, watched, FACTOR, (48, 8), quiet)
    assert max(max(shape[:2]) for shape in seen) <= 48
    assert len(seen) == count(pixels, 48, 8)


def test_a_picture_is_stopped_between_two_tiles() -> None:
    """Each tile is told, in order, and what is raised then ends the picture."""
    told: list[tuple[int, int]] = []

    def stopping(done: int, total: int) -> None:
        told.append((done, total))
        if done == 2:
            raise CanceledError("enough")

    with pytest.raises(CanceledError):
        enlarged(np.asarray(pattern(130, 90)), repeated, FACTOR, (48, 8), stopping)
    assert told == [(1, 15), (2, 15)]
