"""What an operator's settings add to the pipelines that draw by words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reelnet.errors import UnsupportedError
from runner.models.lora import LoraShelf
from runner.pipelines.schedulers import Schedulers
from runner.safety import Safety


@dataclass(frozen=True, slots=True)
class Extras:
    """Schedulers, LoRAs (None: none are served), the safety checker, and the pixels from which the VAE makes tiles."""

    schedulers: Schedulers = field(default_factory=Schedulers)
    loras: LoraShelf | None = None
    safety: Safety = field(default_factory=Safety)
    tiling_pixels: int | None = None

    def apply_loras(self, asked: Mapping[str, float]) -> None:
        """Makes the nets draw with these LoRAs and no others. Raises UnsupportedError and UserError."""
        if self.loras is not None:
            self.loras.apply(asked)
        elif used := [name for name, strength in asked.items() if strength]:
            raise UnsupportedError("this node serves no LoRAs", code="loras", loc=("loras", used[0]))

    @contextlib.contextmanager
    def tiling(self, pipe: Any, size: tuple[int, int]) -> Iterator[None]:
        """While it lasts, the VAE decodes in tiles if the picture is as large as the operator says."""
        vae: Any = getattr(pipe, "vae", None)
        if self.tiling_pixels is None or size[0] * size[1] < self.tiling_pixels or not hasattr(vae, "enable_tiling"):
            yield
            return
        vae.enable_tiling()
        try:
            yield
        finally:
            vae.disable_tiling()
