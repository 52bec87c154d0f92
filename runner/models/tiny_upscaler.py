"""Tiny upscalers with random weights, in the layout of real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline, UNet2DConditionModel
from safetensors.torch import save_file
from spandrel.architectures import ESRGAN
from transformers import CLIPTextModel, CLIPTokenizer

_WIDTH = 32
_NOISE = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


class Checkpoint:
    """One module whose weights are saved as one file, as upscalers are published."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def save_pretrained(self, folder: Path, *, safe_serialization: bool = True) -> None:
        """Writes `model.safetensors`; the name is diffusers' for the same."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._module.state_dict(), folder / "model.safetensors")


def esrgan(filled: Any, blocks: int = 1) -> Checkpoint:
    """An ESRGAN of few filters; `filled` gives its weights their values.

    Its last layer is made to give numbers around the middle of 0…1, so that pictures are neither black nor white.
    """
    net = filled(ESRGAN.ESRGAN(num_filters=16, num_blocks=blocks, scale=4))
    last = net.model[-1]
    with torch.no_grad():
        last.weight.mul_(0.2)
        last.bias.fill_(0.5)
    return Checkpoint(net)


def diffusion(filled: Any, text: Any, tokenizer: CLIPTokenizer) -> Any:
    """A StableDiffusionUpscalePipeline: a VAE of factor 4, and a UNet that sees the picture beside the latents."""
    vae = AutoencoderKL(
        block_out_channels=(_WIDTH,) * 3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=0.08333,
        norm_num_groups=8,
        sample_size=256,
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=7,
        out_channels=4,
        block_out_channels=(_WIDTH // 2, _WIDTH),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text.hidden_size,
        attention_head_dim=2,
        norm_num_groups=8,
        num_class_embeds=1000,
    )
    return StableDiffusionUpscalePipeline(
        vae=filled(vae),
        text_encoder=filled(CLIPTextModel(text)),
        tokenizer=tokenizer,
        unet=filled(unet),
        low_res_scheduler=DDPMScheduler(**_NOISE),
        scheduler=DDIMScheduler(**_NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        max_noise_level=350,
    )
