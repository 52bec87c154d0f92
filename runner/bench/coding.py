"""What coding costs: pictures and clips of the same frames, in turns, as ratios of one round each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from statistics import median

import numpy as np

from runner import images
from runner.backend import Frames
from runner.bench.films import FPS
from runner.video_codecs import ClipOutput
from runner.video_file import clip_of

PNG, PNG_6, WEBP, JPEG, CLIP = "PNG", "PNG, level 6", "WebP, lossless", "JPEG", "MP4, H.264"


@dataclass(frozen=True, slots=True)
class Cost:
    """What all frames of a film cost once: seconds of CPU, all threads together, and bytes."""

    cpu_s: float
    size: int


@dataclass(frozen=True, slots=True)
class Aim:
    """What a way of coding may cost at most beside another one; `bytes_` bounds its bytes too."""

    name: str
    most: float
    most_bytes: float | None = None

    def met(self, seconds: float, size: float) -> bool:
        """Whether both ratios are good enough."""
        return seconds <= self.most and (self.most_bytes is None or size <= self.most_bytes)


AIMS = (Aim(CLIP, 0.15), Aim(WEBP, 0.25, most_bytes=1.0))


@dataclass(frozen=True, slots=True)
class Compared:
    """Ratios of one way of coding to another: median and range over the rounds, and of the bytes."""

    seconds: float
    low: float
    high: float
    size: float


Round = Mapping[str, Cost]
"""What each way of coding cost in one round."""


def ways(png_level: int, jpeg_quality: int, clips: ClipOutput) -> dict[str, Callable[[Frames], int]]:
    """The ways of coding, as a runner with these settings has them; each gives the bytes of all frames."""
    return {
        PNG: lambda frames: _pictures(frames, lambda picture: images.png(picture, png_level)),
        PNG_6: lambda frames: _pictures(frames, lambda picture: images.png(picture, 6)),
        WEBP: lambda frames: _pictures(frames, images.webp),
        JPEG: lambda frames: _pictures(frames, lambda picture: images.jpeg(picture, jpeg_quality)),
        CLIP: lambda frames: len(clip_of(frames, Fraction(FPS), clips, lambda _: None).data),
    }


def measure_round(frames: Frames, some: Mapping[str, Callable[[Frames], int]], number: int) -> Round:
    """Each way once, begun by another one each round."""
    names = list(some)
    names = names[number % len(names) :] + names[: number % len(names)]
    return {name: _cost(some[name], frames) for name in names}


def compared(rounds: list[Round], name: str, base: str) -> Compared:
    """A way of coding beside another one of the same round."""
    ratios = sorted(row[name].cpu_s / row[base].cpu_s for row in rounds)
    return Compared(median(ratios), ratios[0], ratios[-1], rounds[0][name].size / rounds[0][base].size)


def _cost(way: Callable[[Frames], int], frames: Frames) -> Cost:
    began = time.process_time()
    size = way(frames)
    return Cost(time.process_time() - began, size)


def _pictures(frames: Frames, coded: Callable[..., bytes]) -> int:
    return sum(len(coded(images.picture_of(pixels[np.newaxis]))) for pixels in frames)
