"""The model's own safety checker, and what a node does with its word."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image, ImageFilter
from safetensors import SafetensorError
from transformers import CLIPImageProcessor

from reelnet.errors import RefusedError
from runner.backend import Frames, SetupError

FOLDER = "safety_checker"
PROCESSOR = "feature_extractor"
Policy = Literal["off", "flag", "blur", "refuse"]
_BLUR_SHARE = 1 / 16
"""Radius of the blur, as a share of the longer side: nothing smaller than a tenth of the picture is left."""


@dataclass(frozen=True, slots=True)
class Safety:
    """What is done with a picture. Without a `checker` nobody looks, and nobody knows."""

    policy: Policy = "off"
    checker: Checker | None = None

    def judge(self, frames: Frames, asked: bool) -> tuple[Frames, bool | None]:
        """The picture as it may be delivered, and whether it was found unsafe; None: nobody looked.

        `asked`: the job asks for the check. Raises RefusedError under the policy `refuse`.
        """
        if self.checker is None or self.policy == "off" or (self.policy == "flag" and not asked):
            return frames, None
        unsafe = self.checker.finds(frames)
        if unsafe and self.policy == "refuse":
            raise RefusedError("this node's safety checker refuses the picture; change prompt or seed", code="nsfw")
        return (_blurred(frames), True) if unsafe and self.policy == "blur" else (frames, unsafe)


class Checker:
    """The classifier that Stable Diffusion came with, by itself."""

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


def load_safety(folder: Path, policy: Policy, device: torch.device, dtype: torch.dtype) -> Safety:
    """The policy with the model's checker. Raises SetupError when blur or refuse find no checker, or it is damaged."""
    if policy == "off":
        return Safety()
    if not (folder / FOLDER).is_dir():
        if policy == "flag":
            return Safety(policy)
        raise SetupError(f"safety: {folder} has no {FOLDER}; download it with the model, or say 'flag' or 'off'")
    try:
        net = StableDiffusionSafetyChecker.from_pretrained(
            folder / FOLDER, local_files_only=True, use_safetensors=True, dtype=dtype
        )
        processor = CLIPImageProcessor.from_pretrained(folder / PROCESSOR, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise SetupError(f"safety: {folder / FOLDER} cannot be read: {type(error).__name__}") from None
    return Safety(policy, Checker(net.to(device).eval(), processor))


def _blurred(frames: Frames) -> Frames:
    radius = max(frames.shape[1:3]) * _BLUR_SHARE
    return np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius))) for frame in frames])
