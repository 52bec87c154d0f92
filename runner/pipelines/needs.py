"""The port by which a family says what of its jobs takes memory, and what the families' answers have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from runner.backend import RunnerJob
from runner.memory_budget import Phase
from runner.models.shadows import Nets
from runner.models.tracing import Part

SQUARES = (64 * 64, 512 * 512, 2048 * 2048)
"""Pixels of the pictures that nets are traced at; between them and beyond them a job's need is a line."""
COLOURS = 3
ENDS = (SQUARES[0], SQUARES[-1])
"""Enough for a VAE, whose tensors all grow with the pixels."""
TOKENS = 512
"""The longest prompt that an encoder reads here; CLIP's own limit is lower."""
TILE_COPIES = 4
"""Copies of a picture that a VAE holds while it decodes in tiles: the tiles with what they overlap, rows, the whole."""


class Needs(Protocol):
    """What a family's jobs take of a device. A family gives one by `needs()`, made of shadows of its nets."""

    @property
    def nets(self) -> Nets:
        """The nets, by the names that parts use."""

    def parts(self) -> Mapping[str, Part]:
        """The calls of nets that are traced once, by name."""

    def phases(self, job: RunnerJob) -> Sequence[Phase]:
        """The stages of a job on the device, each with a part of these and the sizes that the job has there."""


def side_of(pixels: int, batch: int = 1) -> int:
    """The side of each square when a batch of them has so many pixels."""
    return math.isqrt(pixels // batch)


def vae_factor(nets: Nets) -> int:
    """Pixels of a picture's side for each of its latents."""
    return int(2 ** (len(nets.config("vae", "block_out_channels")) - 1))


def decoding(nets: Nets, *, upcast: bool = False) -> Part:
    """One picture from its latents, up to the numbers between 0 and 1; its axis is pixels."""
    vae = nets.in_float32("vae") if upcast else nets["vae"]
    dtype = torch.float32 if upcast else nets.dtype_of("vae")
    channels, factor = nets.config("vae", "latent_channels"), vae_factor(nets)

    def decode(pixels: int) -> object:
        side = side_of(pixels) // factor
        picture = vae.decode(nets.tensor(1, channels, side, side, dtype=dtype), return_dict=False)[0]
        return (picture * 0.5 + 0.5).clamp(0, 1)

    return Part("vae", decode, (ENDS,))


def encoding(nets: Nets, *, upcast: bool = False) -> Part:
    """The latents of one picture; its axis is pixels."""
    vae = nets.in_float32("vae") if upcast else nets["vae"]
    dtype = torch.float32 if upcast else nets.dtype_of("vae")
    channels = nets.config("vae", "in_channels", 3)

    def encode(pixels: int) -> object:
        side = side_of(pixels)
        return vae.encode(nets.tensor(1, channels, side, side, dtype=dtype)).latent_dist.mode()

    return Part("vae", encode, (ENDS,))


def reading(nets: Nets) -> dict[str, Part]:
    """A prompt through each of the model's text encoders."""
    return {name: _reader(nets, name) for name in nets.modules if name.startswith("text_encoder")}


def reading_phases(nets: Nets) -> list[Phase]:
    """The phases of `reading`."""
    return [Phase("read the prompt", name, smaller="another model") for name in reading(nets)]


def upcast_bytes(nets: Nets, *, upcast: bool) -> int:
    """What the VAE's weights grow by while it works in 32 bits."""
    total = nets.weights["vae"].total_bytes
    return total * torch.float32.itemsize // nets.dtype_of("vae").itemsize - total if upcast else 0


def looking(nets: Nets) -> Part:
    """A picture through CLIP."""
    side = int(nets.config("image_encoder", "image_size"))
    dtype, patches = nets.dtype_of("image_encoder"), (side // int(nets.config("image_encoder", "patch_size"))) ** 2

    def look() -> object:
        return nets["image_encoder"](nets.tensor(1, COLOURS, side, side, dtype=dtype), output_hidden_states=True)

    return Part("image_encoder", look, positions=patches)


def assembling(nets: Nets, areas: tuple[int, ...]) -> Part:
    """A clip's decoded chunks as one, in 32 bits and between 0 and 1; its axis is frames times pixels."""
    dtype = nets.dtype_of("vae")

    def assemble(area: int) -> object:
        chunks = [nets.tensor(COLOURS, area, dtype=dtype)]
        joined = torch.cat(chunks, dim=0)
        video = joined.float()
        del joined, chunks
        return (video * 0.5 + 0.5).clamp(0, 1)

    return Part("vae", assemble, (areas,))


def _reader(nets: Nets, name: str) -> Part:
    longest = min(TOKENS, int(nets.config(name, "max_position_embeddings", TOKENS)))

    def read() -> object:
        tokens = torch.zeros((1, longest), dtype=torch.long)
        return nets[name](tokens, output_hidden_states=True)

    return Part(name, read, positions=longest)
