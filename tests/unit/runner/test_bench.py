"""What the media benchmark makes of its figures."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from reelnet.errors import ConfigError
from runner.backend import Frames
from runner.bench import coding, films, report
from runner.bench.coding import CLIP, JPEG, PNG, PNG_6, WEBP, Aim, Cost, compared, measure_round, ways
from runner.bench.likeness import Likeness, likeness, ssim
from runner.bench.memory import Curve, Mark
from runner.video_codecs import ClipOutput

PICTURE = films.opened(Path(__file__).parents[3] / films.PICTURE)


def rounds(clip_s: float, webp_bytes: int = 90) -> list[coding.Round]:
    """Three rounds in which PNG at its usual level takes 1, 2 and 3 seconds and the clip a share of that."""
    rest = {PNG: (0.4, 120), JPEG: (0.1, 20), WEBP: (0.2, webp_bytes), CLIP: (clip_s, 10)}
    return [
        {PNG_6: Cost(s, 100)} | {name: Cost(s * share, size) for name, (share, size) in rest.items()}
        for s in (1.0, 2.0, 3.0)
    ]


def test_ratios_are_of_one_round() -> None:
    """A machine that is slower for a whole round changes no ratio."""
    found = compared(rounds(0.25), CLIP, PNG_6)
    assert (found.seconds, found.low, found.high, found.size) == (0.25, 0.25, 0.25, 0.1)


def test_an_aim_is_of_time_and_of_bytes() -> None:
    """Fast and larger is no better than small and slow."""
    aim = Aim("x", 0.25, most_bytes=1.0)
    assert aim.met(0.25, 1.0)
    assert not aim.met(0.26, 0.5)
    assert not aim.met(0.1, 1.01)
    assert Aim("x", 0.25).met(0.1, 9.0)


def measured(clip_s: float, webp_bytes: int = 90) -> report.Measured:
    curve = Curve(100, 10**6, 0, [Mark(n, 10**8 + min(n, 10) * 10**6, min(n, 6)) for n in range(1, 101)])
    return report.Measured({"f": rounds(clip_s, webp_bytes)}, {"f": [Likeness("h264", 30, 10, 40, 0.9)]}, curve, 1)


@pytest.mark.parametrize(("clip_s", "webp_bytes", "lines"), [(0.1, 90, 0), (0.2, 90, 1), (0.2, 110, 2)])
def test_what_is_missed_is_told(clip_s: float, webp_bytes: int, lines: int) -> None:
    """Beside PNG at its usual level, whatever the runner's own costs."""
    assert len(report.missed(measured(clip_s, webp_bytes))) == lines


def test_every_table_fits_its_width() -> None:
    """Nothing is wrapped or cut at 100 columns, and each row says what was met."""
    console = Console(width=report.WIDTH, file=io.StringIO())
    report.show(measured(0.2), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert text.count("missed") == 1
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert report.document(measured(0.2))["missed"]


def test_memory_that_stays_is_no_growth() -> None:
    """Growth counts from when the first tenth is done: a window that fills is none."""
    assert measured(0.1).curve.growth() == 0  # type: ignore[union-attr]
    rising = Curve(100, 10**6, 0, [Mark(n, n * 10**6, 4) for n in range(1, 101)])
    assert rising.growth() == 90 * 10**6
    assert [mark.frames for mark in rising.table()][:: len(rising.table()) - 1] == [1, 100]


def test_films_are_pictures_that_move() -> None:
    """Of the promised size; the grainy ones differ from the other by their noise alone, the same each time."""
    smooth, fine, grainy = (film.frames(PICTURE, 3) for film in films.FILMS)
    assert smooth.shape == grainy.shape == (3, 576, 1024, 3)
    assert np.abs(smooth[0].astype(int) - smooth[-1]).mean() > 5
    assert 1 < np.abs(smooth.astype(int) - grainy).mean() < 3
    assert 0.2 < np.abs(smooth.astype(int) - fine).mean() < 0.6
    assert (films.FILMS[2].frames(PICTURE, 3)[2] == grainy[2]).all()


def test_a_picture_that_is_missing_is_told(tmp_path: Path) -> None:
    """With what to do about it."""
    with pytest.raises(ConfigError, match="--picture"):
        films.opened(tmp_path / "none.jpg")


def test_a_round_measures_each_way_and_begins_with_another() -> None:
    """All costs are there, whichever came first."""
    order: list[str] = []

    def way(name: str) -> Callable[[Frames], int]:
        def coded(_: Frames) -> int:
            order.append(name)
            return len(name)

        return coded

    some = {name: way(name) for name in ("a", "bb", "ccc")}
    found = [measure_round(np.zeros((1, 8, 8, 3), np.uint8), some, number) for number in (0, 1)]
    assert order == ["a", "bb", "ccc", "bb", "ccc", "a"]
    assert [found[1][name].size for name in some] == [1, 2, 3]


def test_the_ways_are_those_of_the_runner() -> None:
    """Each gives bytes: the clip fewer than its pictures, level 6 fewer than level 1."""
    frames = np.stack(list(films.panned(PICTURE, (128, 64), 4)))
    size = {name: way(frames) for name, way in ways(1, 90, ClipOutput()).items()}
    assert size[CLIP] < size[JPEG] < size[PNG_6] < size[PNG]


def test_likeness_is_of_what_was_coded() -> None:
    """A better clip is more alike; equal pictures have an SSIM of 1."""
    frames = np.stack(list(films.panned(PICTURE, (128, 64), 4)))
    poor, good = (likeness(frames, ClipOutput(vp9_crf=crf), "vp9") for crf in (50, 10))
    assert poor.psnr + 3 < good.psnr
    assert poor.ssim < good.ssim < 1
    assert poor.size < good.size
    plane = frames[0, ..., 0].astype(np.float32)
    assert ssim(plane, plane) == pytest.approx(1)
