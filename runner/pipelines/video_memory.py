"""What Stable Video Diffusion takes of a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from reelnet.parameters import ImageToVideo
from runner.backend import RunnerJob
from runner.memory_budget import Phase
from runner.models.shadows import Nets
from runner.models.tracing import Part
from runner.pipelines.needs import COLOURS, assembling, encoding, looking, side_of, upcast_bytes, vae_factor

_SQUARES = (64 * 64, 1024 * 1024)
_FRAMES = (2, 25)
_PAIR = 2
_CHUNK = 4
"""Frames that are decoded at once while the VAE is traced; its need goes with frames times pixels."""
_CONDITIONS = 3
"""Frame rate, motion and noise."""


@dataclass(frozen=True, slots=True)
class VideoNeeds:
    """The needs of StableVideoDiffusionPipeline."""

    nets: Nets

    def parts(self) -> Mapping[str, Part]:
        """Axes: frames and a batch's pixels of one frame (denoise); frames times pixels (decode, assemble)."""
        areas = (_CHUNK * 32 * 32, _CHUNK * 1024 * 1024)
        return {
            "look": looking(self.nets),
            "encode": encoding(self.nets, upcast=self._upcast),
            "denoise": Part("unet", self._denoise, (_FRAMES, tuple(_PAIR * square for square in _SQUARES)), 1 / 64),
            "decode": Part("vae", self._decode, (areas,)),
            "assemble": assembling(self.nets, areas),
        }

    def phases(self, job: RunnerJob) -> Sequence[Phase]:
        """All frames are denoised at once; what is decoded stays on the device until the last chunk is."""
        params = job.params
        assert isinstance(params, ImageToVideo)
        pixels, frames = params.width * params.height, params.num_frames
        chunk = min(frames, params.decode_chunk_size)
        batch = _PAIR if params.max_guidance_scale > 1 else 1
        done = (frames - chunk) * pixels * COLOURS * self.nets.dtype.itemsize
        fewer = "a smaller width or height, or fewer num_frames"
        upcast = upcast_bytes(self.nets, upcast=self._upcast)
        return [
            Phase("look at the picture", "look", smaller="another model"),
            Phase("encode the picture", "encode", (pixels,), upcast, "a smaller width or height"),
            Phase("denoise", "denoise", (frames, batch * pixels), smaller=fewer),
            Phase("decode", "decode", (chunk * pixels,), done, "a smaller decode_chunk_size, width or height"),
            Phase("put the frames together", "assemble", (frames * pixels,), smaller=fewer),
        ]

    @property
    def _upcast(self) -> bool:
        """Its pipeline encodes in 32 bits, and decodes in 16."""
        return self.nets.dtype is torch.float16 and bool(self.nets.config("vae", "force_upcast", False))

    def _denoise(self, frames: int, pixels: int) -> object:
        unet, side = self.nets["unet"], side_of(pixels, _PAIR) // vae_factor(self.nets)
        return unet(
            self.nets.tensor(_PAIR, frames, unet.config.in_channels, side, side),
            1,
            encoder_hidden_states=self.nets.tensor(_PAIR, 1, unet.config.cross_attention_dim),
            added_time_ids=self.nets.tensor(_PAIR, _CONDITIONS),
            return_dict=False,
        )

    def _decode(self, area: int) -> object:
        side = side_of(area, _CHUNK) // vae_factor(self.nets)
        latents = self.nets.tensor(_CHUNK, self.nets.config("vae", "latent_channels"), side, side)
        return self.nets["vae"].decode(latents, num_frames=_CHUNK).sample
