"""What pictures take of a device: text encoders, the net that denoises, the VAE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from reelnet.parameters import ImageEdit, TextToImage
from runner.backend import RunnerJob
from runner.memory_budget import Phase
from runner.models.memory import NETS
from runner.models.shadows import Nets
from runner.models.tracing import Part
from runner.pipelines import canvas
from runner.pipelines.needs import (
    COLOURS,
    SQUARES,
    TILE_COPIES,
    decoding,
    encoding,
    reading,
    reading_phases,
    side_of,
    upcast_bytes,
    vae_factor,
)

_FACTOR = 16
"""What sides are rounded up to here: the largest multiple that a family of pictures asks for."""
_PAIR = 2
_RGB32_BYTES = 3 * 4
"""Of a pixel of the input, as the pipelines keep it while they draw."""
_CLIP_TOKENS, _SD3_TOKENS, _FLUX_TOKENS = 77, 77 + 256, 512


@dataclass(frozen=True, slots=True)
class PictureNeeds:
    """The needs of every class of the auto pipelines. `tiling_pixels`: see `Extras`."""

    nets: Nets
    tiling_pixels: int | None = None

    def parts(self) -> Mapping[str, Part]:
        """A denoising step over a batch's pixels, a picture through the VAE in both directions, the prompt."""
        found = reading(self.nets)
        if self._net:
            found["denoise"] = denoising(self.nets, self._net)
        if "vae" in self.nets:
            found["decode"] = decoding(self.nets, upcast=self._upcast)
            found["encode"] = encoding(self.nets, upcast=self._upcast)
        return found

    def phases(self, job: RunnerJob) -> Sequence[Phase]:
        """One image at a time is drawn, however many the job asks for."""
        params = job.params
        assert isinstance(params, TextToImage | ImageEdit)
        changes = isinstance(params, ImageEdit)
        size = job.inputs["image"].size if isinstance(params, ImageEdit) else (params.width, params.height)
        width, height = canvas.enlarged(size, _FACTOR)
        smaller = "a smaller picture" if changes else "a smaller width or height"
        found = reading_phases(self.nets)
        if self._net:
            found.append(Phase("denoise", "denoise", (width * height * self._batch(params),), smaller=smaller))
        if "vae" in self.nets:
            given = width * height * _RGB32_BYTES if changes else 0
            found += [self._coded(part, width * height, given, smaller) for part in ("decode", "encode")[: 1 + changes]]
        return found

    @property
    def _net(self) -> str | None:
        return next((name for name in NETS if name in self.nets), None)

    @property
    def _upcast(self) -> bool:
        """SDXL's VAE leaves float16's range, unless its configuration says that it was mended."""
        large = "unet" in self.nets and self.nets.config("unet", "addition_embed_type") == "text_time"
        return large and self.nets.dtype is torch.float16 and bool(self.nets.config("vae", "force_upcast", False))

    def _batch(self, params: TextToImage | ImageEdit) -> int:
        """How often a picture goes through the net in one step, for the sake of guidance."""
        if not _guides_by_batch(self.nets, self._net) or params.guidance_scale <= 1:
            return 1
        unet_sees_input = self._net == "unet" and self.nets.config("unet", "in_channels") == _PAIR * self._channels
        return 1 + _PAIR if unet_sees_input else _PAIR

    @property
    def _channels(self) -> int:
        return int(self.nets.config("vae", "latent_channels"))

    def _coded(self, part: str, pixels: int, given_bytes: int, smaller: str) -> Phase:
        held = given_bytes + upcast_bytes(self.nets, upcast=self._upcast)
        tile = int(self.nets.config("vae", "sample_size", 0)) ** 2
        if self.tiling_pixels is None or not 0 < tile < pixels or pixels < self.tiling_pixels:
            return Phase(part, part, (pixels,), held, smaller)
        item = torch.float32.itemsize if self._upcast else self.nets.dtype.itemsize
        return Phase(part, part, (tile,), held + TILE_COPIES * COLOURS * pixels * item, smaller)


def denoising(nets: Nets, name: str) -> Part:
    """One step of the net that denoises. Its axis: pixels of the picture, times the pictures in a batch.

    A net of a class that is not known here cannot be traced, and is bounded.
    """
    patch = int(nets.config(name, "patch_size", 1)) if name == "transformer" else 1
    call = _CALLS.get(type(nets[name]).__name__)
    if call is None:
        return Part(name, _unknown, (SQUARES,), 1 / (vae_factor(nets) * patch) ** 2)
    run, batch = call
    return Part(name, lambda pixels: run(nets, pixels), (tuple(batch * square for square in SQUARES),), 1 / 64)


def _unknown(_: int) -> object:
    raise NotImplementedError


def _guides_by_batch(nets: Nets, net: str | None) -> bool:
    """FLUX and distilled nets are told the guidance instead."""
    if net == "unet":
        return nets.config("unet", "time_cond_proj_dim") is None
    return net is not None and type(nets[net]).__name__ != "FluxTransformer2DModel"


def _unet(nets: Nets, pixels: int) -> object:
    unet, side = nets["unet"], side_of(pixels, _PAIR) // vae_factor(nets)
    return unet(
        nets.tensor(_PAIR, unet.config.in_channels, side, side),
        1,
        encoder_hidden_states=nets.tensor(_PAIR, _CLIP_TOKENS, nets.config("unet", "cross_attention_dim")),
        added_cond_kwargs=_conditions(nets),
        return_dict=False,
    )


def _conditions(nets: Nets) -> dict[str, torch.Tensor] | None:
    """SDXL's: the pooled prompt, and six numbers about sizes."""
    if nets.config("unet", "addition_embed_type") != "text_time":
        return None
    numbers = 6
    taken = numbers * nets.config("unet", "addition_time_embed_dim")
    pooled = nets.config("unet", "projection_class_embeddings_input_dim") - taken
    return {"text_embeds": nets.tensor(_PAIR, pooled), "time_ids": nets.tensor(_PAIR, numbers)}


def _stable_diffusion_3(nets: Nets, pixels: int) -> object:
    net, side = nets["transformer"], side_of(pixels, _PAIR) // vae_factor(nets)
    return net(
        hidden_states=nets.tensor(_PAIR, net.config.in_channels, side, side),
        encoder_hidden_states=nets.tensor(_PAIR, _SD3_TOKENS, net.config.joint_attention_dim),
        pooled_projections=nets.tensor(_PAIR, net.config.pooled_projection_dim),
        timestep=nets.tensor(_PAIR),
        return_dict=False,
    )


def _flux(nets: Nets, pixels: int) -> object:
    net, tokens = nets["transformer"], (side_of(pixels) // vae_factor(nets) // _PAIR) ** 2
    return net(
        hidden_states=nets.tensor(1, tokens, net.config.in_channels),
        encoder_hidden_states=nets.tensor(1, _FLUX_TOKENS, net.config.joint_attention_dim),
        pooled_projections=nets.tensor(1, net.config.pooled_projection_dim),
        timestep=nets.tensor(1),
        guidance=nets.tensor(1) if net.config.guidance_embeds else None,
        img_ids=nets.tensor(tokens, 3),
        txt_ids=nets.tensor(_FLUX_TOKENS, 3),
        return_dict=False,
    )


_CALLS: Mapping[str, tuple[Callable[[Nets, int], object], int]] = {
    "UNet2DConditionModel": (_unet, _PAIR),
    "SD3Transformer2DModel": (_stable_diffusion_3, _PAIR),
    "FluxTransformer2DModel": (_flux, 1),
}
"""How a net is called, and with how many pictures at once."""
