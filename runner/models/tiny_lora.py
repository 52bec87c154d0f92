"""A LoRA for the tiny Stable Diffusion model: random, small, strong enough to be seen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

RANK = 4
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
UNET_LAYERS = tuple(f"unet.{ATTENTION}.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0"))
FILE = "lora.safetensors"


def write_lora(
    folder: Path, layers: Iterable[str] = UNET_LAYERS, width: int = 32, seed: int = 0, dtype: str = "float32"
) -> Path:
    """A folder with a LoRA over square layers `width` wide, in peft's layout."""
    random = np.random.default_rng(seed)
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for layer in layers:
        weights[f"{layer}.lora_A.weight"] = random.standard_normal((RANK, width)).astype(dtype)
        weights[f"{layer}.lora_B.weight"] = random.standard_normal((width, RANK)).astype(dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / FILE)
    return folder
