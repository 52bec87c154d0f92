"""Sketches of what a diffusers pipeline is drawing, for jobs that ask to see it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import structlog
import torch

from runner.backend import Pixels, Reporter, RunnerJob, Sketch
from runner.pipelines.denoised import Denoising, watched
from runner.pipelines.latent_colours import LatentColours, fit_colours

log = structlog.get_logger()

_STRANGE = (AttributeError, IndexError, KeyError, TypeError, ValueError, NotImplementedError)
"""What a scheduler or VAE raises that is built otherwise than those known here: the job goes on unseen."""


@dataclass(slots=True)
class Showing:
    """One diffusers call whose steps are to be seen."""

    job: RunnerJob
    canvas: tuple[int, int]
    grid: tuple[int, int]
    colours: LatentColours
    denoising: Denoising

    def ended(self, report: Reporter, index: int, step: int, total: int) -> None:
        """Output `index` has made `step` of `total`: hands in a sketch, where one is due and can be made."""
        if not self.job.shows(step, total):
            return
        try:
            latents = self.denoising.picture(lambda tensor: shown_part(tensor, self.colours, self.grid))
        except _STRANGE as error:
            log.debug("no sketch", error=type(error).__name__)
            return
        if latents is not None:
            report.sketch(Sketch(index, step, total, self.canvas, _drawing(latents, self.colours)))


class LatentPreviews:
    """Shows the jobs of one loaded model. Its colours are fitted at the first job that asks.

    `withheld`: the operator lets out no picture that a checker has not seen, and so no sketch.
    """

    def __init__(self, *, withheld: bool = False) -> None:
        self._withheld = withheld
        self._colours: LatentColours | None = None
        self._fitted = False

    @contextlib.contextmanager
    def of(self, pipe: Any, job: RunnerJob, canvas: tuple[int, int]) -> Iterator[Showing | None]:
        """What its call is to be shown with; None for a job that asks for none, and a model that has no colours.

        `canvas`: width and height that the call draws, pixels.
        """
        colours = self._colours_of(pipe) if job.preview_steps and not self._withheld else None
        if colours is None:
            yield None
            return
        scale = int(getattr(pipe, "vae_scale_factor", 0) or getattr(pipe, "vae_scale_factor_spatial", 8))
        with watched(pipe.scheduler) as denoising:
            yield Showing(job, canvas, (canvas[1] // scale, canvas[0] // scale), colours, denoising)

    def _colours_of(self, pipe: Any) -> LatentColours | None:
        if not self._fitted:
            self._fitted = True
            try:
                self._colours = fit_colours(pipe.vae, pipe._execution_device)
            except (*_STRANGE, RuntimeError) as error:
                log.warning("this model has no previews", error=type(error).__name__)
            finally:
                pipe.maybe_free_model_hooks()  # an offload begins anew, as if nothing had been encoded
        return self._colours


def shown_part(latents: torch.Tensor, colours: LatentColours, grid: tuple[int, int]) -> torch.Tensor | None:
    """The latents of one picture, shape (channels, height, width), out of a call's; None for an unknown layout.

    A picture's are (1, channels, height, width), or packed two by two as (1, height/2 · width/2, channels · 4) on a
    `grid` of (height, width) cells. A clip's are (1, frames, channels, height, width), or channels before frames where
    its VAE encodes clips. Of a clip the frame in its middle is shown: its first one is the input, which the app has.
    """
    channels = colours.channels
    match latents.dim():
        case 3:
            return _unpacked(latents[0], channels, grid)
        case 4 if latents.shape[1] == channels:
            return latents[0]
        case 5:
            frames = latents[0].transpose(0, 1) if colours.of_clips else latents[0]
            return frames[len(frames) // 2] if frames.shape[1] == channels else None
    return None


def _unpacked(tokens: torch.Tensor, channels: int, grid: tuple[int, int]) -> torch.Tensor | None:
    """Tokens, shape (height/2 · width/2, channels · 4), as (channels, height, width)."""
    rows, columns = grid[0] // 2, grid[1] // 2
    if tokens.shape != (rows * columns, channels * 4):
        return None
    cells = tokens.reshape(rows, columns, channels, 2, 2)
    return cells.permute(2, 0, 3, 1, 4).reshape(channels, rows * 2, columns * 2)


def _drawing(latents: torch.Tensor, colours: LatentColours) -> Callable[[], Pixels]:
    """Takes the latents off the device, for which only the thread that draws them waits."""
    there = latents.contiguous().to("cpu", non_blocking=True)
    copied = None
    if latents.device.type == "cuda":
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(latents.device))

    def draw() -> Pixels:
        if copied is not None:
            copied.synchronize()
        return colours.paint(there.numpy())

    return draw
