"""What upscalers and FILM take of a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.func import functional_call

from reelnet.parameters import UPSCALE_FACTOR, ImageToVideo, PromptedVideo
from runner.backend import RunnerJob
from runner.interpolation import Interpolator
from runner.memory_budget import Phase
from runner.models.film import COLOURS, Film, FilmShape
from runner.models.film_folder import FilmFrames
from runner.models.shadows import Nets
from runner.models.tracing import META, Part
from runner.pipelines.needs import Needs, decoding, reading, reading_phases, side_of, upcast_bytes

MULTIPLE = 64
"""What a side has to be a multiple of, for the levels of a diffusion upscaler."""
_TILES = (64 * 64, 256 * 256, 512 * 512)
_INPUTS = (64 * 64, 256 * 256, 1024 * 1024)
_PAIR = 2
_TOKENS = 77
_PICTURE = "a smaller picture"


@dataclass(frozen=True, slots=True)
class DiffusionUpscaleNeeds:
    """The needs of StableDiffusionUpscalePipeline, whose latents are as large as the picture that it is given."""

    nets: Nets

    def parts(self) -> Mapping[str, Part]:
        """Axes: latents of a batch (denoise), pixels of the result (decode)."""
        areas = tuple(_PAIR * square for square in _INPUTS)
        steps = Part("unet", self._denoise, (areas,))
        return reading(self.nets) | {"denoise": steps, "decode": decoding(self.nets, upcast=self._upcast)}

    def phases(self, job: RunnerJob) -> Sequence[Phase]:
        """The picture goes through as a whole, and twice: guidance cannot be turned off."""
        width, height = (side + -side % MULTIPLE for side in job.inputs["image"].size)
        large, upcast = width * height * UPSCALE_FACTOR**2, upcast_bytes(self.nets, upcast=self._upcast)
        return [
            *reading_phases(self.nets),
            Phase("denoise", "denoise", (_PAIR * width * height,), smaller=_PICTURE),
            Phase("decode", "decode", (large,), upcast, _PICTURE),
        ]

    @property
    def _upcast(self) -> bool:
        return self.nets.dtype is torch.float16 and bool(self.nets.config("vae", "force_upcast", False))

    def _denoise(self, area: int) -> object:
        unet, side = self.nets["unet"], side_of(area, _PAIR)
        return unet(
            self.nets.tensor(_PAIR, unet.config.in_channels, side, side),
            1,
            encoder_hidden_states=self.nets.tensor(_PAIR, _TOKENS, unet.config.cross_attention_dim),
            class_labels=torch.zeros(_PAIR, dtype=torch.long),
            return_dict=False,
        )


@dataclass(frozen=True, slots=True)
class TileNeeds:
    """The needs of an upscaler that sees tiles of side `tile` (0: whole pictures), or half of it if memory is short.

    `on_host`: the device's memory is that in which the result is put together.
    """

    nets: Nets
    tile: int
    channels: int = COLOURS
    on_host: bool = False

    def parts(self) -> Mapping[str, Part]:
        """One tile; its axis is pixels of the tile."""
        return {"enlarge": Part("upscaler", self._enlarge, (_TILES,), UPSCALE_FACTOR**2)}

    def phases(self, job: RunnerJob) -> Sequence[Phase]:
        """The smallest tiles that a job may come to: see `Upscaler`."""
        assert job.source is not None, "every upscaled job has an input"
        width, height = job.source.width, job.source.height
        most = (self.tile or max(width, height)) // 2
        result = width * height * UPSCALE_FACTOR**2 * COLOURS if self.on_host else 0
        return [Phase("enlarge", "enlarge", (min(width, most) * min(height, most),), result, _PICTURE, flexible=True)]

    def _enlarge(self, area: int) -> object:
        net: Any = self.nets["upscaler"]
        state = {name: value.to(META) for name, value in (*net.named_parameters(), *net.named_buffers())}
        side = side_of(area)
        large = functional_call(net, state, (self.nets.tensor(1, self.channels, side, side),))
        torch.isfinite(large).all()
        return (large[0].float() * 255).round().clamp(0, 255)


@dataclass(frozen=True, slots=True)
class FilmNeeds:
    """The needs of FILM: two frames, compared once, and a moment between them."""

    nets: Nets

    @classmethod
    def of(cls, shape: FilmShape, dtype: torch.dtype) -> Self:
        """The needs of a network of that shape."""
        with META:
            film = Film(shape).to(dtype)
        return cls(Nets({"film": film}, dtype))

    def parts(self) -> Mapping[str, Part]:
        """A pair of frames with one moment; its axis is pixels of a frame."""
        return {"interpolate": Part("film", self._interpolate, (_INPUTS,))}

    def phases(self, job: RunnerJob) -> Sequence[Phase]:
        """Only two frames of the clip are ever on the device."""
        assert job.source is not None, "every clip has a size"
        return [self.phase(job.source.width, job.source.height)]

    def phase(self, width: int, height: int) -> Phase:
        """Between two frames of that size."""
        unit = self.nets["film"].shape.unit
        area = (width + -width % unit) * (height + -height % unit)
        return Phase("make frames between frames", "interpolate", (area,), smaller="a clip of fewer pixels")

    def _interpolate(self, area: int) -> object:
        film, side = self.nets["film"], side_of(area)
        first, second = (self.nets.tensor(1, COLOURS, side, side) for _ in range(2))
        picture = film.at(film.relate(first, second), 0.5)
        return (picture[0].float().clamp(0, 1) * 255).round().to(torch.uint8)


@dataclass(frozen=True, slots=True)
class WithFilm:
    """A video model's needs, with a FILM network beside it, whose turn comes when the clip is off the device."""

    video: Needs
    film: FilmNeeds

    @property
    def nets(self) -> Nets:
        """Those of both."""
        return Nets({**self.video.nets.modules, **self.film.nets.modules}, self.video.nets.dtype)

    def parts(self) -> Mapping[str, Part]:
        """Those of both."""
        return {**self.video.parts(), **self.film.parts()}

    def phases(self, job: RunnerJob) -> Sequence[Phase]:
        """FILM's for a job that asks for a rate of its own."""
        params = job.params
        assert isinstance(params, ImageToVideo | PromptedVideo)
        more = [] if params.interpolate_to_fps is None else [self.film.phase(params.width, params.height)]
        return [*self.video.phases(job), *more]


def beside_film(video: Needs, net: Interpolator | None) -> Needs:
    """A video model's needs with those of the network beside it, if there is one."""
    if not isinstance(net, FilmFrames):
        return video
    return WithFilm(video, FilmNeeds.of(net.film.shape, net.dtype))
