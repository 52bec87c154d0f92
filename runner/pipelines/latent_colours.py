"""The colours of latents: a linear map, fitted to the model's own VAE, in the place of its decoder.

A VAE's latents are close to a small picture in other coordinates: per latent cell, RGB is nearly an affine function of
the channels. Which function is found by encoding pictures whose colours are known, with least squares.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import torch
from PIL import Image

from runner.backend import Pixels

log = structlog.get_logger()

Floats = npt.NDArray[np.float32]
SIDE = 256
"""Pixels a side of the pictures that are encoded."""
CLIP_FRAMES = 5
"""Frames of the still clip that a VAE of clips gets: those after the first are encoded otherwise, and are the most."""
_DAMPING = 1e-4
"""Keeps weights small where the pictures say nothing of a direction; a share of a channel's variance."""


@dataclass(frozen=True, slots=True)
class LatentColours:
    """RGB of latents as the denoiser has them. `weights`, shape (channels + 1, 3): the last row is the constant.

    `of_clips`: the VAE encodes clips, so that its latents have channels before frames.
    """

    weights: Floats
    of_clips: bool = False

    @property
    def channels(self) -> int:
        """Latent channels."""
        return len(self.weights) - 1

    def paint(self, latents: Floats) -> Pixels:
        """Latents of one picture, shape (channels, height, width), as RGB bytes, shape (height, width, 3)."""
        colours = np.einsum("chw,cd->hwd", latents, self.weights[:-1]) + self.weights[-1]
        pixels: Pixels = (np.nan_to_num(colours).clip(0, 1) * 255).round().astype(np.uint8)
        return pixels


def fit_colours(vae: Any, device: torch.device) -> LatentColours | None:
    """The map of a VAE; None for one that cannot encode, or not in numbers. It takes no noise and changes no weight."""
    began = time.monotonic()
    of_clips = any(isinstance(part, torch.nn.Conv3d) for part in getattr(vae, "encoder", torch.nn.Module()).modules())
    with torch.inference_mode(), _full_precision(vae, device) as dtype:
        pairs = [
            (found, picture)
            for picture in sample_pictures()
            if (found := _latents(vae, torch.from_numpy(picture).to(device, dtype), of_clips)) is not None
        ]
    if not pairs or not all(np.isfinite(found).all() for found, _ in pairs):
        return None
    cells = np.concatenate([found.reshape(len(found), -1).T for found, _ in pairs])
    colours = np.concatenate([_shrunk(picture, found.shape[-1]).reshape(-1, 3) for found, picture in pairs])
    weights, explained = _solve(cells, colours)
    log.info("preview colours", explained=round(explained, 3), fit_s=round(time.monotonic() - began, 3))
    return LatentColours(weights, of_clips)


def sample_pictures() -> list[Floats]:
    """Pictures as shape (SIDE, SIDE, 3) in 0…1: patches large and small, gradients, and clouds of every size."""
    random = np.random.default_rng(0)
    cube = np.stack(np.meshgrid(*[np.linspace(0, 1, 4)] * 3), axis=-1).reshape(64, 3)
    x, y = np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE))
    clouds = np.sum([_enlarged(random.random((side, side, 3)), smooth=True) - 0.5 for side in (4, 8, 16, 32, 64)], 0)
    return [
        _enlarged(random.permutation(cube).reshape(8, 8, 3)),
        _enlarged(random.random((16, 16, 3))),
        np.stack([x, y, 1 - (x + y) / 2], axis=-1).astype(np.float32),
        (clouds * 0.5 + 0.5).clip(0, 1).astype(np.float32),
    ]


def _enlarged(small: npt.NDArray[np.float64], smooth: bool = False) -> Floats:
    way = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    planes = [Image.fromarray(small[..., plane].astype(np.float32)).resize((SIDE, SIDE), way) for plane in range(3)]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


@contextlib.contextmanager
def _full_precision(vae: Any, device: torch.device) -> Iterator[torch.dtype]:
    """Float32 while it lasts, where 16 bits do not do; the weights come back to the bit.

    Float16 is too narrow for some VAEs. A CPU without instructions for 16 bits takes a minute for what takes a second.
    """
    own = vae.dtype
    here = not any(weights.is_meta for weights in vae.parameters())  # else an offload brings them layer by layer
    narrow = own == torch.float16 and vae.config.get("force_upcast")
    slow = own in (torch.float16, torch.bfloat16) and device.type == "cpu"
    if not ((narrow or slow) and here):
        yield own
        return
    vae.to(torch.float32)
    try:
        yield torch.float32
    finally:
        vae.to(own)


def _latents(vae: Any, picture: torch.Tensor, of_clips: bool) -> Floats | None:
    """A picture's latents, shape (channels, height, width), scaled as the denoiser has them."""
    pixels = (picture * 2 - 1).permute(2, 0, 1)[None]
    found = vae.encode(pixels[:, :, None].repeat(1, 1, CLIP_FRAMES, 1, 1) if of_clips else pixels)
    drawn = found.latent_dist.mode() if hasattr(found, "latent_dist") else getattr(found, "latent", None)
    if drawn is None:
        return None
    drawn = drawn[0, :, -1] if of_clips else drawn[0]
    return _scaled(vae.config, drawn.float().cpu().numpy())


def _scaled(config: Any, latents: Floats) -> Floats:
    """As diffusers' pipelines scale what a VAE gives: less its mean or shift, by its factor or its deviation."""
    mean, deviation = (config.get(name) for name in ("latents_mean", "latents_std"))
    shift = np.float32(config.get("shift_factor") or 0) if mean is None else _per_channel(mean)
    spread = np.float32(1) if deviation is None else _per_channel(deviation)
    scaled: Floats = (latents - shift) * np.float32(config.get("scaling_factor") or 1) / spread
    return scaled


def _per_channel(values: Any) -> Floats:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def _shrunk(picture: Floats, side: int) -> Floats:
    """The mean of the pixels of each latent cell, shape (side, side, 3)."""
    cell = SIDE // side
    means: Floats = picture.reshape(side, cell, side, cell, 3).mean((1, 3))
    return means


def _solve(cells: Floats, colours: Floats) -> tuple[Floats, float]:
    """Weights and a constant that give colours (n, 3) of cells (n, channels), and the share that they explain."""
    damping = np.diag(cells.std(0) * np.float32((_DAMPING * len(cells)) ** 0.5))
    rows = np.vstack([cells - cells.mean(0), damping])
    wanted = np.vstack([colours - colours.mean(0), np.zeros((len(damping), 3), np.float32)])
    weights = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    constant = colours.mean(0) - cells.mean(0) @ weights
    missed = colours - cells @ weights - constant
    return np.vstack([weights, constant]).astype(np.float32), float(1 - missed.var() / colours.var())
