"""A VAE that is linear, so that what a map of its colours has to be is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch


class LinearVae(torch.nn.Module):
    """Latents are the means of cells of `cell` pixels, mixed into `channels`; the decoder is the way back.

    `asked` and `kinds` are the shapes and number formats of what was encoded.
    """

    def __init__(self, channels: int, cell: int = 8, *, of_clips: bool = False, **config: Any) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(5)
        self.weight = torch.nn.Parameter(torch.randn(channels, 3, generator=random), requires_grad=False)
        self.bias = torch.nn.Parameter(torch.randn(channels, generator=random), requires_grad=False)
        self.encoder = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1)) if of_clips else torch.nn.Identity()
        self.decoder = torch.nn.Identity()
        self.cell = cell
        self.config = Config(config)
        self.asked: list[tuple[int, ...]] = []
        self.kinds: list[Any] = []

    @property
    def dtype(self) -> Any:
        return self.weight.dtype

    @property
    def device(self) -> Any:
        return self.weight.device

    def encode(self, pixels: Any) -> Any:
        self.asked.append(tuple(pixels.shape))
        self.kinds.append(pixels.dtype)
        if pixels.dim() == 5:
            latents = torch.stack([self.latents(pixels[:, :, at]) for at in range(0, pixels.shape[2], 4)], dim=2)
        else:
            latents = self.latents(pixels)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def latents(self, pixels: Any) -> Any:
        """Of pictures, shape (n, 3, height, width)."""
        cells = torch.nn.functional.avg_pool2d(pixels, self.cell)
        return torch.einsum("dc,nchw->ndhw", self.weight, cells) + self.bias[:, None, None]

    def decode(self, latents: Any, **_: Any) -> Any:
        back = torch.linalg.pinv(self.weight.float())
        cells = torch.einsum("cd,ndhw->nchw", back, self.decoder(latents) - self.bias[:, None, None])
        return (torch.nn.functional.interpolate(cells, scale_factor=float(self.cell)),)


class Config(dict[str, Any]):
    """A model's configuration, as diffusers has it: read by name either way."""

    def __getattr__(self, name: str) -> Any:
        return self[name]
