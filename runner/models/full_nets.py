"""The published architectures at their full size, on torch's meta device: shapes without memory for weights.

Figures are those of the models' own configuration files; the numbers of parameters are held by a test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from runner.models import full
from runner.models.libraries import quiet_libraries
from runner.models.tiny_nets import NOISE, clip_tokenizer

_VAE_LEVELS = (128, 256, 512, 512)
_HUGE = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "hidden_act": "gelu"}
_TRAINED = {**NOISE, "num_train_timesteps": 1000, "steps_offset": 1}


def build(name: str) -> Any:
    """The diffusers pipeline of a full-size model, by its name; its nets have shapes and no values."""
    quiet_libraries()
    builders: dict[str, Callable[[], Any]] = {
        full.SD15: _stable_diffusion,
        full.SDXL: _stable_diffusion_xl,
        full.SVD_XT: _stable_video,
    }
    return builders[name]()


def _net(kind: Any, *args: Any, **config: Any) -> Any:
    """A net of that class without weights."""
    with torch.device("meta"):
        return kind(*args, **config)


def _stable_diffusion() -> Any:
    return StableDiffusionPipeline(
        vae=_vae(sample_size=512, scaling_factor=0.18215),
        text_encoder=_net(CLIPTextModel, _clip_text()),
        tokenizer=clip_tokenizer(),
        unet=_net(UNet2DConditionModel, sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=PNDMScheduler(**_TRAINED, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _stable_diffusion_xl() -> Any:
    unet = _net(
        UNet2DConditionModel,
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )
    huge = CLIPTextConfig(**_HUGE, num_attention_heads=20, projection_dim=1280, vocab_size=49408)
    return StableDiffusionXLPipeline(
        vae=_vae(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
        text_encoder=_net(CLIPTextModel, _clip_text()),
        text_encoder_2=_net(CLIPTextModelWithProjection, huge),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_TRAINED, timestep_spacing="leading"),
        add_watermarker=False,
    )


def _stable_video() -> Any:
    vision = CLIPVisionConfig(**_HUGE, num_attention_heads=16, projection_dim=1024, image_size=224, patch_size=14)
    vae = _net(
        AutoencoderKLTemporalDecoder,
        block_out_channels=_VAE_LEVELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=768,
        scaling_factor=0.18215,
    )
    return StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=_net(CLIPVisionModelWithProjection, vision),
        unet=_net(UNetSpatioTemporalConditionModel, num_attention_heads=(5, 10, 20, 20), num_frames=25, sample_size=96),
        scheduler=EulerDiscreteScheduler(
            **_TRAINED,
            prediction_type="v_prediction",
            timestep_type="continuous",
            timestep_spacing="leading",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
        ),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224),
    )


def _vae(sample_size: int, scaling_factor: float, force_upcast: bool = False) -> Any:
    return _net(
        AutoencoderKL,
        block_out_channels=_VAE_LEVELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=sample_size,
        scaling_factor=scaling_factor,
        force_upcast=force_upcast,
    )


def _clip_text() -> Any:
    """CLIP ViT-L/14's text half. The end of a text is its highest token, as the published 2 makes the library look."""
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
