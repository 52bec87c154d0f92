"""Model folders as far as a node looks at them: small files, whole, in diffusers layout."""

from __future__ import annotations

import json
from pathlib import Path


def safetensors(path: Path, size: int = 16) -> None:
    """A whole file with one tensor of `size` bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))


def model_folder(folder: Path, class_name: str = "StableDiffusionPipeline") -> Path:
    """A whole model: a scheduler, a tokenizer, a net in one file and one in two shards, and no checker."""
    parts = {
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": [None, None],
    }
    write(folder / "model_index.json", {"_class_name": class_name, "requires_safety_checker": False, **parts})
    for name in ("scheduler/scheduler_config", "tokenizer/vocab", "text_encoder/config", "unet/config"):
        write(folder / f"{name}.json", {})
    safetensors(folder / "unet" / "diffusion_pytorch_model.safetensors")
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for shard in shards:
        safetensors(folder / "text_encoder" / shard)
    weight_map = {f"w{number}": shard for number, shard in enumerate(shards)}
    write(folder / "text_encoder" / "model.safetensors.index.json", {"weight_map": weight_map})
    return folder


def write(path: Path, document: object) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
