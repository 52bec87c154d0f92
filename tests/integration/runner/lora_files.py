"""LoRA files for the tiny models: random, small, in the layout of peft and in kohya's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

RANK = 4
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
UNET_LAYERS = tuple(f"unet.{ATTENTION}.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0"))
TEXT_LAYERS = tuple(f"text_encoder.text_model.encoder.layers.0.self_attn.{name}" for name in ("q_proj", "v_proj"))


def write_lora(
    folder: Path, layers: Iterable[str] = UNET_LAYERS, width: int = 32, seed: int = 0, file: str = "lora.safetensors"
) -> Path:
    """A LoRA over square layers `width` wide, strong enough to be seen."""
    random = np.random.default_rng(seed)
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for layer in layers:
        weights[f"{layer}.lora_A.weight"] = random.standard_normal((RANK, width)).astype(np.float32)
        weights[f"{layer}.lora_B.weight"] = random.standard_normal((width, RANK)).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / file)
    return folder


def write_kohya_lora(folder: Path, seed: int = 0) -> Path:
    """The same layers with kohya's names and an alpha."""
    random = np.random.default_rng(seed)
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for name in ("to_q", "to_k", "to_v", "to_out_0"):
        layer = f"lora_unet_{ATTENTION.replace('.', '_')}_{name}"
        weights[f"{layer}.lora_down.weight"] = random.standard_normal((RANK, 32)).astype(np.float32)
        weights[f"{layer}.lora_up.weight"] = random.standard_normal((32, RANK)).astype(np.float32)
        weights[f"{layer}.alpha"] = np.array(RANK, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "kohya.safetensors")
    return folder
