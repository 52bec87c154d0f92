"""Operations of a job's matrix products and convolutions, counted on nets without weights: no memory, no device.

Each multiply-add is two. Encoders of words and pictures are left out: together they are well under 1 % of a job.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from reelnet.parameters import ImageToVideo, Params, TextToImage
from runner.backend import SetupError
from runner.models.digest import INDEX, read_json

_LATENT = 8
"""Pixels of a picture's side for one of a latent's."""
_TOKENS = 77
_GUIDED = 2
"""With guidance a step runs the net for two inputs: with the words (or the picture), and without."""


@dataclass(frozen=True, slots=True)
class Flops:
    """Of one job: of one call of the denoising net, how many calls there are, and of decoding all outputs."""

    forward: int
    forwards: int
    decode: int

    @property
    def total(self) -> int:
        """Of the whole job."""
        return self.forward * self.forwards + self.decode


def count(folder: Path, params: Params) -> Flops:
    """What one picture or clip with these parameters costs on the model in `folder`.

    Raises SetupError for a model that is not of the classes with a UNet, or damaged.
    """
    index = read_json(folder / INDEX)
    unet, vae = (_empty(folder, index, name) for name in ("unet", "vae"))
    if isinstance(params, ImageToVideo):
        call, decode = _clip_call(unet, params), _clip_decode(vae, params)
        guided = params.max_guidance_scale > 1
    elif isinstance(params, TextToImage):
        call, decode = _picture_call(unet, params), _counted(vae.decode, _latent(vae, params, 1))
        guided = params.guidance_scale > 1
    else:
        raise SetupError(f"{folder}: operations are counted for text-to-image and image-to-video")
    return Flops(call * (_GUIDED if guided else 1), _calls(folder, index, params.num_inference_steps), decode)


def _empty(folder: Path, index: Mapping[str, Any], name: str) -> Any:
    """A part of the model on the meta device, from its configuration."""
    try:
        kind = _kind(index, name)
        with torch.device("meta"):
            return kind.from_config(kind.load_config(folder / name)).eval().to("meta")  # some tensors ignore the "with"
    except (KeyError, AttributeError, OSError, ValueError, TypeError):
        raise SetupError(f"{folder}: has no {name} whose operations can be counted") from None


def _kind(index: Mapping[str, Any], name: str) -> Any:
    library, class_name = index[name]
    if library != "diffusers":
        raise ValueError(library)
    return getattr(importlib.import_module(library), class_name)


def _calls(folder: Path, index: Mapping[str, Any], steps: int) -> int:
    """As the scheduler makes them, which may be more than there are steps."""
    kind = _kind(index, "scheduler")
    scheduler = kind.from_config(kind.load_config(folder / "scheduler"))
    scheduler.set_timesteps(steps)
    return len(scheduler.timesteps)


def _picture_call(unet: Any, params: TextToImage) -> int:
    config = unet.config
    more = {}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        more["added_cond_kwargs"] = {"text_embeds": _meta(1, pooled), "time_ids": _meta(1, 6)}
    sample = _latent(unet, params, 1)
    return _counted(unet, sample, _meta(1), encoder_hidden_states=_meta(1, _TOKENS, config.cross_attention_dim), **more)


def _clip_call(unet: Any, params: ImageToVideo) -> int:
    sample = _latent(unet, params, params.num_frames)[None]
    picture = _meta(1, 1, unet.config.cross_attention_dim)
    return _counted(unet, sample, _meta(1), encoder_hidden_states=picture, added_time_ids=_meta(1, 3))


def _clip_decode(vae: Any, params: ImageToVideo) -> int:
    """In chunks, as the job asks: the last one may be smaller."""
    chunk = min(params.decode_chunk_size, params.num_frames)
    whole, rest = divmod(params.num_frames, chunk)
    return sum(
        times * _counted(vae.decode, _latent(vae, params, frames), num_frames=frames)
        for times, frames in ((whole, chunk), (1, rest))
        if frames
    )


def _latent(net: Any, params: TextToImage | ImageToVideo, count: int) -> torch.Tensor:
    """As many latents as the net takes: shape (count, channels, height / 8, width / 8)."""
    channels = getattr(net.config, "latent_channels", None) or net.config.in_channels
    return _meta(count, channels, math.ceil(params.height / _LATENT), math.ceil(params.width / _LATENT))


def _meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def _counted(call: Any, *args: Any, **kwargs: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*args, **kwargs)
    return int(counter.get_total_flops())
