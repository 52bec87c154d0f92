"""The safety checker that Stable Diffusion came with, from a model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors import SafetensorError
from transformers import CLIPImageProcessor

from runner.backend import Frames, SetupError
from runner.models.layout import variant_in
from runner.safety import NodePolicy, Safety

FOLDER = "safety_checker"
PROCESSOR, PROCESSOR_FILE = "feature_extractor", "preprocessor_config.json"


class ClipChecker:
    """The classifier by itself: CLIP's view of a picture, compared with concepts."""

    def __init__(self, net: Any, processor: Any) -> None:
        self._net = net
        self._processor = processor

    def finds(self, frames: Frames) -> bool:
        """Whether one of these pictures is unsafe by the checker's thresholds."""
        pictures = [Image.fromarray(frame) for frame in frames]
        seen = self._processor(pictures, return_tensors="pt").pixel_values.to(self._net.device, self._net.dtype)
        with torch.inference_mode():
            _, found = self._net(clip_input=seen, images=[np.zeros((1, 1, 3), np.float32) for _ in pictures])
        return any(found)


def load_safety(model: Path, policy: NodePolicy, device: torch.device, dtype: torch.dtype) -> Safety:
    """The policy with the checker that lies in the model's folder, whatever the model makes.

    Raises SetupError when blur or refuse find no checker, or it is damaged.
    """
    if policy == "off":
        return Safety()
    folder = model / FOLDER
    if not folder.is_dir():
        if policy == "flag":
            return Safety(policy)
        raise SetupError(f"safety: {model} has no {FOLDER}; put it into the model's folder, or say 'flag' or 'off'")
    try:
        net = StableDiffusionSafetyChecker.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=variant_in(folder), dtype=dtype
        )
        processor = CLIPImageProcessor.from_pretrained(_processor(model), local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise SetupError(f"safety: {folder} cannot be read: {type(error).__name__}") from None
    except SetupError as error:
        raise SetupError(f"safety: the checker cannot be read: {error}") from None
    return Safety(policy, ClipChecker(net.to(device).eval(), processor))


def _processor(model: Path) -> Path:
    """Where it stands how the checker is shown a picture: with it, as it is published alone, else with the model."""
    own = model / FOLDER
    return own if (own / PROCESSOR_FILE).exists() else model / PROCESSOR
