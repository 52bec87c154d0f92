"""What Wan takes of a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from reelnet.parameters import PromptedVideo
from runner.backend import RunnerJob
from runner.memory_budget import Phase
from runner.models.shadows import Nets
from runner.models.tracing import Part
from runner.pipelines import canvas
from runner.pipelines.needs import COLOURS, TILE_COPIES, assembling, looking, reading, reading_phases, side_of

GROUP = 4
"""Frames of a latent frame behind the first, which is a frame by itself."""
LEAST_MULTIPLE = 16
"""The class takes no other sides, whatever its nets could draw."""
_LATENTS = 5
"""Latent frames that steps are traced with; a step's need goes with latent frames times pixels."""
_SEEN = 1 + GROUP
"""Frames that the VAE is traced with: it takes latent frames one after another, with what it keeps of the last."""
_SQUARES = (64 * 64, 512 * 512, 1024 * 1024)
_ENDS = (_SQUARES[0], _SQUARES[-1])
_TEXT = 512


@dataclass(frozen=True, slots=True)
class PromptedNeeds:
    """The needs of WanImageToVideoPipeline. A second transformer, for the last steps, is as large as the first.

    first_frame: the picture is the first latent frame. tiling_pixels: see `Extras`.
    """

    nets: Nets
    first_frame: bool
    tiling_pixels: int | None = None

    def parts(self) -> Mapping[str, Part]:
        """Axes: latent frames times pixels (denoise); a frame's pixels (encode, decode); all pixels (assemble)."""
        areas = tuple(_LATENTS * square for square in _SQUARES)
        cell = math.prod(self._patch[1:]) * self._factor**2
        found = {
            **reading(self.nets),
            "encode": Part("vae", self._encode, (_ENDS,)),
            "denoise": Part("transformer", self._denoise, (areas,), 1 / cell),
            "decode": Part("vae", self._decode, (_ENDS,)),
            "assemble": assembling(self.nets, (areas[0], areas[-1])),
        }
        return found | ({"look": looking(self.nets)} if "image_encoder" in self.nets else {})

    def phases(self, job: RunnerJob) -> Sequence[Phase]:
        """The whole clip is denoised at once, for the words and against them one after the other."""
        params = job.params
        assert isinstance(params, PromptedVideo)
        multiple = math.lcm(LEAST_MULTIPLE, *(self._factor * side for side in self._patch[1:]))
        width, height = canvas.enlarged((params.width, params.height), multiple)
        pixels, frames = width * height, params.num_frames
        latents = 1 + (frames - 1) // GROUP
        fewer = "a smaller width or height, or fewer num_frames"
        looks = [Phase("look at the picture", "look", smaller="another model")] if "image_encoder" in self.nets else []
        return [
            *reading_phases(self.nets),
            *looks,
            self._coded("encode", pixels, 1 if self.first_frame else frames, fewer),
            Phase("denoise", "denoise", (latents * pixels,), smaller=fewer),
            self._coded("decode", pixels, frames, fewer),
            Phase("put the frames together", "assemble", (frames * pixels,), smaller=fewer),
        ]

    def _coded(self, part: str, pixels: int, frames: int, smaller: str) -> Phase:
        """All frames lie on the device while the VAE takes some, or a tile, of them."""
        held = frames * pixels * COLOURS * self.nets.dtype_of("vae").itemsize
        tile = int(self.nets["vae"].tile_sample_min_height) * int(self.nets["vae"].tile_sample_min_width)
        if self.tiling_pixels is None or pixels < max(self.tiling_pixels, tile + 1):
            return Phase(part, part, (pixels,), held, smaller)
        return Phase(part, part, (tile,), TILE_COPIES * held, smaller)

    @property
    def _factor(self) -> int:
        return int(self.nets.config("vae", "scale_factor_spatial", 8))

    @property
    def _patch(self) -> tuple[int, ...]:
        return tuple(self.nets.config("transformer", "patch_size"))

    def _encode(self, pixels: int) -> object:
        side, frames = side_of(pixels), 1 if self.first_frame else _SEEN
        clip = self.nets.tensor(1, COLOURS, frames, side, side, dtype=self.nets.dtype_of("vae"))
        return self.nets["vae"].encode(clip).latent_dist.mode()

    def _decode(self, pixels: int) -> object:
        side, vae = side_of(pixels) // self._factor, self.nets["vae"]
        latents = self.nets.tensor(1, vae.config.z_dim, 2, side, side, dtype=self.nets.dtype_of("vae"))
        return vae.decode(latents, return_dict=False)

    def _denoise(self, area: int) -> object:
        net, side = self.nets["transformer"], side_of(area, _LATENTS) // self._factor
        tokens = _LATENTS * (side // self._patch[1]) * (side // self._patch[2])
        return net(
            self.nets.tensor(1, net.config.in_channels, _LATENTS, side, side),
            torch.zeros((1, tokens) if self.first_frame else (1,)),
            self.nets.tensor(1, _TEXT, net.config.text_dim),
            encoder_hidden_states_image=self._seen(),
            return_dict=False,
        )

    def _seen(self) -> torch.Tensor | None:
        """What CLIP makes of the picture: a token for each patch, and one for the whole."""
        if "image_encoder" not in self.nets:
            return None
        side, patch = (int(self.nets.config("image_encoder", name)) for name in ("image_size", "patch_size"))
        return self.nets.tensor(1, 1 + (side // patch) ** 2, self.nets.config("image_encoder", "hidden_size"))
