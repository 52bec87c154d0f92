"""LoRA files for the tiny models beside those that `runner.models.tiny_lora` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from runner.models.tiny_lora import ATTENTION, RANK

TEXT_LAYERS = tuple(f"text_encoder.text_model.encoder.layers.0.self_attn.{name}" for name in ("q_proj", "v_proj"))


def write_kohya_lora(folder: Path, seed: int = 0) -> Path:
    """The same layers with kohya's names and an alpha."""
    from safetensors.numpy import save_file

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
