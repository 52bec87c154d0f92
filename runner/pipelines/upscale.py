"""Pictures and clips, four times as wide and high: by an upscaler in tiles, or by a diffusion model with words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from reelnet.errors import UnsupportedError
from reelnet.model_classes import UPSCALER
from reelnet.parameters import UPSCALE_FACTOR, VIDEO, Params, Upscale
from reelnet.warnings import NOT_USED, JobWarning
from runner.backend import Pixels, Rendered, Reporter, RunnerJob, Served
from runner.models.numbers import as_bytes
from runner.models.shadows import Nets, shadows_of
from runner.models.upscaler import Upscaler
from runner.pipelines.clip_memory import MULTIPLE, DiffusionUpscaleNeeds, TileNeeds
from runner.pipelines.family import Share, is_out_of_memory, memory_errors, noise
from runner.pipelines.prompt_windows import told_cuts
from runner.upscale_tiles import count, enlarged
from runner.video_codecs import ClipOutput
from runner.video_stream import remade

OVERLAP = 32
"""Pixels of the input that a tile has around its own part; a model's borders are worst at the outermost of them."""
_ONLY = Share(0, 1)
_STEPS = "num_inference_steps"


class TiledUpscale:
    """Serves upscale and upscale-video from one upscaler. A prompt and a number of steps mean nothing to it."""

    def __init__(self, model: Upscaler, output: ClipOutput) -> None:
        self._model = model
        self._output = output

    @property
    def served(self) -> tuple[Served, ...]:
        """The pipelines that this family has."""
        return (Served("upscale", UPSCALER), Served("upscale-video", UPSCALER))

    @property
    def loras(self) -> Mapping[str, str]:
        """None: see `Family`."""
        return {}

    @property
    def dtype(self) -> torch.dtype:
        """The upscaler's number format."""
        return self._model.dtype

    def needs(self) -> TileNeeds:
        """See `Family`."""
        net, dtype = self._model.net, self._model.dtype
        return TileNeeds(Nets({"upscaler": net}, dtype), self._model.tile, self._model.channels, self._model.on_host)

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """The picture with its transparency, or the clip with its times and sound. A grey picture stays grey.

        Raises UnsupportedError for a number of steps, which there are none of: a job is priced by it.
        """
        for name in ("prompt", "seed"):
            if getattr(job.params, name, "") != "":
                report.warn(unused(UPSCALER, name))
        if VIDEO in job.clips:
            yield self._clip(job, report)
            return
        _check_steps(job.params)
        picture = job.inputs["image"]
        pixels = np.array(picture.convert("RGB"))
        large = _Enlarging(self._model, report).picture(pixels)
        yield Rendered(0, job.seed, _grey(large)[None] if _is_grey(pixels) else large[None], alpha=_alpha(picture))

    def _clip(self, job: RunnerJob, report: Reporter) -> Rendered:
        (spec,) = job.promises
        clip = job.clips[VIDEO]
        enlarging = _Enlarging(self._model, report, clip.source.frames)
        file = remade(clip, enlarging.picture, UPSCALE_FACTOR, self._output.of(job), lambda _: None)
        assert spec.rate is not None
        return Rendered.of_clip(job.seed, file, spec.rate)


@dataclass(slots=True)
class _Enlarging:
    """One job's pictures through the upscaler. Memory that is short halves the tiles, once for all of them."""

    model: Upscaler
    report: Reporter
    pictures: int = 1
    done: int = 0
    tile: int | None = None

    def picture(self, pixels: Pixels) -> Pixels:
        """The next picture. Raises OutOfMemoryError when it does not fit in tiles of half the side either."""
        try:
            large = self._try(pixels, self.tile or self.model.tile)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            large = self._again(pixels)
        self.done += 1
        return large

    def _again(self, pixels: Pixels) -> Pixels:
        self.model.free()
        with memory_errors():
            if self.tile is not None:
                raise torch.OutOfMemoryError
            self.tile = (self.model.tile or max(pixels.shape)) // 2
            return self._try(pixels, self.tile)

    def _try(self, pixels: Pixels, tile: int) -> Pixels:
        sides = (tile or max(pixels.shape), OVERLAP)
        tiles = count(pixels, *sides)

        def ticked(done: int, _: int) -> None:
            self.report.step("upscale", self.done * tiles + done, self.pictures * tiles)

        if tiles == 1:
            large = self.model.enlarge_bytes(pixels)
            ticked(1, 1)
            return large
        return enlarged(pixels, self.model.enlarge, self.model.factor, sides, ticked)


class DiffusionUpscale:
    """Serves upscale from a diffusion model that is told the picture and words. It takes the picture as a whole."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    @property
    def served(self) -> tuple[Served, ...]:
        """The pipelines that this family has."""
        return (Served("upscale", type(self._pipe).__name__),)

    @property
    def loras(self) -> Mapping[str, str]:
        """None: see `Family`."""
        return {}

    def needs(self) -> DiffusionUpscaleNeeds:
        """See `Family`."""
        return DiffusionUpscaleNeeds(shadows_of(self._pipe.components))

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """The picture, and its transparency enlarged beside it."""
        params = job.params
        assert isinstance(params, Upscale)
        picture = job.inputs["image"]
        with (
            told_cuts(self._pipe, job, report),
            memory_errors(),
            torch.inference_mode(),
            _ONLY.decoding(report, self._pipe),
        ):
            result = self._pipe(
                prompt=params.prompt,
                image=_padded(picture.convert("RGB")),
                num_inference_steps=params.num_inference_steps,
                generator=noise(job.seed),
                callback=self._steps(report),
                output_type="np",
            )
        width, height = (side * UPSCALE_FACTOR for side in picture.size)
        yield Rendered(0, job.seed, as_bytes(result.images[:, :height, :width]), alpha=_alpha(picture))

    def _steps(self, report: Reporter) -> Callable[[int, Any, Any], None]:
        def ended(step: int, *_: Any) -> None:
            report.step("denoise", step + 1, len(self._pipe.scheduler.timesteps))

        return ended


def unused(owner: str, name: str) -> JobWarning:
    """Says that models of a class do not use a parameter."""
    return JobWarning(NOT_USED, f"{name} changed nothing: a model of the class {owner} does not use it.", name)


def _check_steps(params: Params) -> None:
    """Published clients send the default, and always a prompt: those ask for nothing."""
    if getattr(params, _STEPS) != Upscale.model_fields[_STEPS].default:
        message = f"{_STEPS}: an upscaler of this kind has no steps; leave it out"
        raise UnsupportedError(message, code=_STEPS, loc=(_STEPS,))


def _padded(picture: Image.Image) -> Image.Image:
    """The picture, its last row and column repeated up to sides that the model takes."""
    pixels = np.asarray(picture)
    missing = [(0, -side % MULTIPLE) for side in pixels.shape[:2]]
    return Image.fromarray(np.pad(pixels, [*missing, (0, 0)], mode="edge"))


def _alpha(picture: Image.Image) -> npt.NDArray[np.uint8] | None:
    """The picture's transparency at the output's size; None for a picture without."""
    if "A" not in picture.getbands():
        return None
    size = (picture.width * UPSCALE_FACTOR, picture.height * UPSCALE_FACTOR)
    return np.asarray(picture.getchannel("A").resize(size, Image.Resampling.LANCZOS))


def _is_grey(pixels: Pixels) -> bool:
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


def _grey(pixels: Pixels) -> Pixels:
    """The mean of the channels in each of them."""
    grey = pixels.astype(np.uint16).sum(-1, keepdims=True) // 3
    return np.asarray(grey.astype(np.uint8).repeat(3, axis=-1))
