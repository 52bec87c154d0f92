"""What a model computed is looked at: what is no number fails its job, and half precision gets a second try."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from reelnet.errors import NOT_FINITE, NodeError
from runner.backend import Frames


def as_bytes(pictures: Any) -> Frames:
    """Diffusers' floats in 0…1, shape (n, height, width, 3), as bytes. Raises NodeError for what is no number."""
    floats = np.asarray(pictures)
    if not np.isfinite(floats).all():
        raise not_finite("pixels")
    frames: Frames = (floats.clip(0, 1) * 255).round().astype(np.uint8)
    return frames


def not_finite(what: str) -> NodeError:
    """The failure of a job whose latents or pixels are no numbers."""
    message = f"the model's {what} are no numbers (NaN or infinity): its weights, a LoRA or its number format overflow"
    return NodeError(message, code=NOT_FINITE)


@contextlib.contextmanager
def finite_decoding(pipe: Any) -> Iterator[None]:
    """While it lasts, the VAE decodes numbers into numbers, or raises NodeError.

    Where half precision overflows, as SDXL's VAE does in float16, the same latents are decoded in float32. The VAE's
    weights are in their own format afterwards, bit for bit.
    """
    vae = getattr(pipe, "vae", None)
    if vae is None:
        yield
        return
    decode, own = vae.decode, vae.dtype

    @functools.wraps(decode)  # a pipeline reads the signature
    def checked(latents: torch.Tensor, *more: Any, **named: Any) -> Any:
        if not is_finite(latents):
            raise not_finite("latents")
        found = decode(latents, *more, **named)
        if is_finite(_sample(found)):
            return found
        if latents.dtype is torch.float32:
            raise not_finite("pixels")
        vae.to(torch.float32)
        found = decode(latents.float(), *more, **named)
        if not is_finite(_sample(found)):
            raise not_finite("pixels")
        return found

    vae.decode = checked
    try:
        yield
    finally:
        del vae.decode
        if vae.dtype is not own:  # also where a class made it float32 itself, and its call has failed since
            vae.to(own)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether each value is a number."""
    return bool(torch.isfinite(tensor).all())


def _sample(found: Any) -> torch.Tensor:
    sample: torch.Tensor = found[0] if isinstance(found, tuple) else found.sample
    return sample
