"""What the tiny models consist of: the nets of each family, small, with random weights that are the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from runner.models import tiny, tiny_film, tiny_upscaler, tiny_wan
from runner.models.libraries import quiet_libraries

_SEED = 20240917
_WIDTH = 32
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def build(name: str) -> Any:
    """The diffusers pipeline of a tiny model, by its name."""
    quiet_libraries()
    builders: dict[str, Callable[[], Any]] = {
        tiny.SD: _stable_diffusion,
        tiny.SVD: _stable_video,
        tiny.SDXL: _stable_diffusion_xl,
        tiny.SD3: _stable_diffusion_3,
        tiny.FLUX: _flux,
        tiny.PIX2PIX: _instruct_pix2pix,
        tiny.ESRGAN: lambda: tiny_upscaler.esrgan(_filled),
        tiny.UPSCALE_SD: lambda: tiny_upscaler.diffusion(_filled, _text_config(), clip_tokenizer()),
        tiny.FILM: lambda: tiny_film.TinyFilm(_filled),
        tiny.WAN: lambda: tiny_wan.with_clip(_filled, _t5_tokenizer(), _vision_config()),
        tiny.WAN_TWO_NETS: lambda: tiny_wan.with_two_nets(_filled, _t5_tokenizer()),
        tiny.WAN_TI2V: lambda: tiny_wan.with_one_seen_frame(_filled, _t5_tokenizer()),
    }
    return builders[name]()


def _stable_diffusion() -> Any:
    return StableDiffusionPipeline(**_sd_parts(in_channels=4))


def _instruct_pix2pix() -> Any:
    """Its UNet sees the latents of the input beside those that it draws."""
    return StableDiffusionInstructPix2PixPipeline(**_sd_parts(in_channels=8))


def _sd_parts(in_channels: int) -> dict[str, Any]:
    return {
        "vae": _vae(),
        "text_encoder": _filled(CLIPTextModel(_text_config())),
        "tokenizer": clip_tokenizer(),
        "unet": _filled(UNet2DConditionModel(in_channels=in_channels, cross_attention_dim=_WIDTH, **_unet_shape())),
        "scheduler": DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _stable_diffusion_xl() -> Any:
    shape = _unet_shape() | {
        "cross_attention_dim": 2 * _WIDTH,
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + _WIDTH,
        "use_linear_projection": True,
    }
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_filled(CLIPTextModel(_text_config())),
        text_encoder_2=_filled(CLIPTextModelWithProjection(_text_config())),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=_filled(UNet2DConditionModel(**shape)),
        scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading", steps_offset=1),
        add_watermarker=False,
    )


def _stable_diffusion_3() -> Any:
    return StableDiffusion3Pipeline(
        transformer=_filled(
            SD3Transformer2DModel(
                sample_size=64,
                patch_size=2,
                in_channels=4,
                out_channels=4,
                num_layers=2,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=2 * _WIDTH,
                caption_projection_dim=_WIDTH,
                pooled_projection_dim=2 * _WIDTH,
                pos_embed_max_size=96,
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift_factor=0.1),
        text_encoder=_filled(CLIPTextModelWithProjection(_text_config())),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_filled(CLIPTextModelWithProjection(_text_config())),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=_t5(),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux() -> Any:
    return FluxPipeline(
        transformer=_filled(
            FluxTransformer2DModel(
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=2 * _WIDTH,
                pooled_projection_dim=_WIDTH,
                guidance_embeds=True,
                axes_dims_rope=(4, 4, 8),
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(shift_factor=0.1),
        text_encoder=_filled(CLIPTextModel(_text_config())),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
    )


def _unet_shape() -> dict[str, Any]:
    return {
        "sample_size": 64,
        "block_out_channels": (_WIDTH // 2, _WIDTH),  # attention over 1024 × 576 is what a step costs
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }


def _vae(**more: Any) -> Any:
    return _filled(AutoencoderKL(**_vae_shape(), norm_num_groups=8, up_block_types=("UpDecoderBlock2D",) * 4, **more))


def _t5() -> Any:
    shape = {"d_model": 2 * _WIDTH, "d_kv": 16, "d_ff": 2 * _WIDTH, "num_layers": 1, "num_heads": 2}
    return _filled(T5EncoderModel(T5Config(vocab_size=len(_t5_vocabulary()), **shape)))


def _t5_tokenizer() -> Any:
    return T5Tokenizer(vocab=_t5_vocabulary(), extra_ids=0, model_max_length=512)


def _t5_vocabulary() -> list[tuple[str, float]]:
    """Each printable ASCII letter by itself: another one is unknown."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return special + [(chr(code), -4.0) for code in range(33, 127)]


def _stable_video() -> Any:
    return StableVideoDiffusionPipeline(
        vae=_filled(AutoencoderKLTemporalDecoder(**_vae_shape())),
        image_encoder=_filled(CLIPVisionModelWithProjection(_vision_config())),
        unet=_filled(
            UNetSpatioTemporalConditionModel(
                sample_size=32,
                block_out_channels=(_WIDTH, 2 * _WIDTH),
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
                num_attention_heads=(2, 4),
                cross_attention_dim=_WIDTH,
                addition_time_embed_dim=_WIDTH,
                projection_class_embeddings_input_dim=3 * _WIDTH,
                num_frames=14,
            )
        ),
        scheduler=EulerDiscreteScheduler(
            **NOISE,
            prediction_type="v_prediction",
            timestep_type="continuous",
            timestep_spacing="leading",
            use_karras_sigmas=True,
            sigma_min=0.002,
            sigma_max=700.0,
            interpolation_type="linear",
        ),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224),
    )


def _vae_shape() -> dict[str, Any]:
    """Four levels, so that a latent's side is an eighth of the picture's, as in the real models."""
    return {
        "block_out_channels": (_WIDTH,) * 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "sample_size": 512,
    }


def _text_config() -> Any:
    return CLIPTextConfig(
        vocab_size=len(_vocabulary()),
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=_WIDTH,
        bos_token_id=len(_vocabulary()) - 2,
        eos_token_id=len(_vocabulary()) - 1,
        pad_token_id=len(_vocabulary()) - 1,
    )


def _vision_config() -> Any:
    return CLIPVisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=2 * _WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=_WIDTH,
        image_size=224,
        patch_size=32,
    )


def _vocabulary() -> dict[str, int]:
    """Every byte, in a word and at a word's end, without merges: any prompt can be written with it."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def clip_tokenizer() -> Any:
    """Of the right class, with a vocabulary of bytes."""
    return CLIPTokenizer(vocab=_vocabulary(), merges=[], model_max_length=77)


def _filled(module: Any) -> Any:
    """`module` with weights that are the same on every machine.

    They come from numpy's uniform bits, which no vector unit rounds differently, scaled by 1/√fan-in so that
    activations keep their size from layer to layer: that is what keeps outputs from being flat or saturated.
    """
    random = np.random.default_rng(_SEED)
    with torch.no_grad():
        for name, weights in sorted(module.named_parameters()):
            weights.copy_(torch.from_numpy(_values(name, tuple(weights.shape), random)))
    return module.eval()


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    constant = constant_of(name, shape)
    if constant is not None:
        return np.full(shape, constant, np.float32)
    return (random.random(shape, np.float32) * 2 - 1) * np.float32(bound_of(name, shape))


def constant_of(name: str, shape: tuple[int, ...]) -> float | None:
    """The one value of a bias, or of a norm's scale; None for weights that are drawn."""
    if name.endswith("bias"):
        return 0.0
    return 1.0 if "norm" in name and len(shape) == 1 else None


def bound_of(name: str, shape: tuple[int, ...]) -> float:
    """Weights are drawn evenly from ± this, so that their deviation is 1/√fan-in."""
    fan_in = 1 if "embedding" in name and len(shape) < 4 else math.prod(shape[1:])
    return math.sqrt(3 / fan_in)
