"""How much memory a long clip takes: a tiny upscaler over hundreds of frames, looked at after each of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from reelnet.clips import probe_clip
from reelnet.parameters import UPSCALE_FACTOR
from runner.backend import InputClip, Pixels
from runner.bench.films import panned
from runner.models.digest import survey
from runner.models.tiny import ESRGAN, make
from runner.video_codecs import ClipOutput
from runner.video_file import clip_of
from runner.video_stream import Window, remade

SIZE, RATE = (256, 144), Fraction(30)
MARKS = 12
"""Rows of the table."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Mark:
    """One moment: frames done, bytes of the process that are in memory, most frames held so far."""

    frames: int
    resident: int
    held: int


@dataclass(slots=True)
class Curve:
    """A clip's moments. `frame_bytes` is one enlarged frame, `whole_bytes` all of them."""

    frames: int
    frame_bytes: int
    before: int
    marks: list[Mark] = field(default_factory=list)

    @property
    def whole_bytes(self) -> int:
        return self.frames * self.frame_bytes

    def growth(self) -> int:
        """Bytes from when the first tenth was done to the highest moment behind it."""
        settled = next(mark for mark in self.marks if mark.frames >= self.frames // 10)
        return max(mark.resident for mark in self.marks if mark.frames >= settled.frames) - settled.resident

    def table(self) -> list[Mark]:
        """Some marks in equal distances, the first and the last among them."""
        chosen = np.linspace(0, len(self.marks) - 1, min(MARKS, len(self.marks))).round().astype(int)
        return [self.marks[index] for index in chosen]


def long_clip(picture: Image.Image, frames: int, models: Path, output: ClipOutput) -> Curve:
    """Enlarges a clip of that many frames, four times as wide and high. Raises StartError without model libraries."""
    clip = _clip(picture, frames, output)
    enlarge = _upscaler(models)
    width, height = (side * UPSCALE_FACTOR for side in SIZE)
    curve, window = Curve(frames, width * height * 3, resident()), Window()

    def done(count: int) -> None:
        curve.marks.append(Mark(count, resident(), window.most))

    remade(clip, enlarge, UPSCALE_FACTOR, output, done, window)
    return curve


def resident() -> int:
    """Bytes of this process that are in memory (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE


def _clip(picture: Image.Image, frames: int, output: ClipOutput) -> InputClip:
    film = np.stack(list(panned(picture, SIZE, frames)))
    data = bytes(clip_of(film, RATE, output, lambda _: None).data)
    return InputClip(data, probe_clip(data))


def _upscaler(models: Path) -> Callable[[Pixels], Pixels]:
    folder = make(models, ESRGAN)
    from runner.models.loading import choose_device
    from runner.models.upscaler import read_upscaler

    return read_upscaler(survey(folder), choose_device("cpu"), "auto", 0).enlarge_bytes
