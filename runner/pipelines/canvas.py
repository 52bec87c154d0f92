"""Sizes that a model can draw, and the way back to the size that was promised.

A model draws sides that are multiples of its factor: the VAE's 8, or 16 where the net takes latents two by two. A side
between two multiples is drawn as the next larger one and cut at the right and the bottom; an input picture is continued
there by its edge pixels first. Nothing is resampled, and the output has exactly the size that the job promises.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from runner.backend import Frames

MIN_SIDE = 64
"""Smaller latents vanish in a UNet's lower levels."""


def factor(pipe: Any) -> int:
    """The pixels of which a side has to be a multiple."""
    scale = int(getattr(pipe, "vae_scale_factor", 8))
    net = getattr(getattr(pipe, "transformer", None), "config", None)
    patches = (getattr(pipe, "patch_size", 1), getattr(net, "patch_size", 1))
    latents = max(int(patch) for patch in patches if isinstance(patch, int))
    processor = getattr(getattr(pipe, "image_processor", None), "config", None)
    return max(scale * latents, int(getattr(processor, "vae_scale_factor", 1) or 1))


def enlarged(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Width and height, each the next multiple that is not smaller."""
    width, height = (max(MIN_SIDE, -(-side // multiple) * multiple) for side in size)
    return width, height


def extended(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """`picture`, continued to the right and downwards by its edge pixels."""
    if picture.size == size:
        return picture
    below, right = size[1] - picture.height, size[0] - picture.width
    return Image.fromarray(np.pad(np.asarray(picture), ((0, below), (0, right), (0, 0)), mode="edge"))


def cut(frames: Frames, size: tuple[int, int]) -> Frames:
    """Frames of shape (n, height, width, 3), cut to `size` at the right and the bottom."""
    width, height = size
    if frames.shape[1:3] == (height, width):
        return frames
    return np.ascontiguousarray(frames[:, :height, :width])
