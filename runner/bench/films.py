"""The frames that are coded: a photograph under a moving camera, without and with the grain of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from reelnet.errors import ConfigError
from runner.backend import Frames, Pixels

PICTURE = Path("examples/rocket.jpg")
WIDTH, HEIGHT, FRAMES, FPS = 1024, 576, 25, 7


@dataclass(frozen=True, slots=True)
class Film:
    """A camera that pans over a picture and closes in; `grain`: sigma of each frame's own noise, of 255 levels."""

    name: str
    grain: float = 0.0

    def frames(self, picture: Image.Image, count: int = FRAMES) -> Frames:
        """Frames of 576 × 1024."""
        random = np.random.default_rng(0)
        return np.stack([self._grained(pixels, random) for pixels in panned(picture, (WIDTH, HEIGHT), count)])

    def _grained(self, pixels: Pixels, random: np.random.Generator) -> Pixels:
        if not self.grain:
            return pixels
        noisy = pixels + random.normal(0, self.grain, pixels.shape)
        return np.asarray(noisy.round().clip(0, 255), np.uint8)


FILMS = (Film("smooth"), Film("fine", grain=0.5), Film("grainy", grain=2.0))


def opened(path: Path) -> Image.Image:
    """The photograph. Raises ConfigError when it is not there."""
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}; name another picture by --picture") from None


def panned(picture: Image.Image, size: tuple[int, int], count: int) -> Iterator[Pixels]:
    """`count` views of the picture, width × height of `size`, each a little beside the one before."""
    width, height = size
    for index in range(count):
        share = index / max(1, count - 1)
        wide = min(picture.width, picture.height * width / height) * (0.92 - 0.12 * share)
        high = wide * height / width
        left = (picture.width - wide) * (0.5 + 0.35 * math.sin(2 * share))
        top = (picture.height - high) * (0.5 + 0.3 * math.cos(1.5 * share))
        view = picture.resize(size, Image.Resampling.BICUBIC, box=(left, top, left + wide, top + high))
        yield np.asarray(view)
