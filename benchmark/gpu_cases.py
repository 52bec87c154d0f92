"""What is measured on a card: the families whose speed is promised, and small stand-ins to try the way on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from benchmark.scenario import Request, parse_pipeline
from reelnet.errors import ConfigError
from reelnet.pipelines import Size

AIMED_CARD = "H200"
"""The aims are of this card alone."""
EAGER, COMPILED = "eager", "compiled"
MODES = (EAGER, COMPILED)


@dataclass(frozen=True, slots=True)
class Case:
    """One model at one size. `aim` is images or clips a minute on the card that the aims are of."""

    name: str
    title: str
    model: str
    pipeline: str
    width: int
    height: int
    steps: int
    frames: int | None = None
    aim: float | None = None

    @property
    def params(self) -> Mapping[str, int]:
        """The parameters that differ from the pipeline's defaults."""
        found = {"width": self.width, "height": self.height, "num_inference_steps": self.steps}
        return MappingProxyType(found | ({"num_frames": self.frames} if self.frames else {}))

    @property
    def shape(self) -> str:
        """The size as a runner's `warmup` has it."""
        return f"{self.width}x{self.height}" + (f"x{self.frames}" if self.frames else "")

    def request(self, runs: int) -> Request:
        """The benchmark's request for it: jobs one after the other, after one that does not count."""
        size = Size(self.width, self.height)
        return Request(parse_pipeline(self.pipeline), self.steps, size, self.frames, runs)


_DRAW, _FILM = "text-to-image", "image-to-video"
FULL = (
    Case("sd15", "SD 1.5, 512², 50 steps", "reelnet/full-random-sd15", _DRAW, 512, 512, 50, aim=285),
    Case("sdxl", "SDXL, 1024², 30 steps", "reelnet/full-random-sdxl", _DRAW, 1024, 1024, 30, aim=62),
    Case("svd-xt", "SVD-XT, 25 × 1024×576, 25 steps", "reelnet/full-random-svd-xt", _FILM, 1024, 576, 25, 25, aim=5.7),
)
TINY = (
    Case("sd15", "tiny SD, 64², 4 steps", "reelnet/tiny-random-sd", _DRAW, 64, 64, 4),
    Case("sdxl", "tiny SDXL, 64², 4 steps", "reelnet/tiny-random-sdxl", _DRAW, 64, 64, 4),
    Case("svd-xt", "tiny SVD, 4 × 64², 2 steps", "reelnet/tiny-random-svd", _FILM, 64, 64, 2, 4),
)


def chosen(only: str | None, *, tiny: bool) -> tuple[Case, ...]:
    """The cases that `sd15,sdxl` names. Raises ConfigError."""
    cases = {case.name: case for case in (TINY if tiny else FULL)}
    return tuple(cases[name] for name in _words("--only", only, tuple(cases)))


def parse_modes(text: str | None) -> tuple[str, ...]:
    """How the net runs: `eager,compiled`. Raises ConfigError."""
    return _words("--modes", text, MODES)


def _words(option: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    words = tuple(text.split(",")) if text else known
    if not set(words) <= set(known):
        raise ConfigError(f"{option}: expected some of {','.join(known)}; found {text!r}")
    return words
