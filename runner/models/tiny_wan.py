"""Tiny Wan models with random weights, in each form that is published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

Filled = Callable[[Any], Any]
"""Gives a module its weights."""
_TEXT = 64
_HEADS, _HEAD = 2, 12
_LATENTS, _LATENTS_TI2V = 16, 48
_MASK = 4
"""Channels that tell which frames of the latents are the input's, beside the latents of the input."""


def with_clip(filled: Filled, tokenizer: T5Tokenizer, vision: CLIPVisionConfig) -> Any:
    """As Wan 2.1: the picture is seen through CLIP too."""
    width = _HEADS * _HEAD
    return WanImageToVideoPipeline(
        **_words(filled, tokenizer),
        vae=_vae(filled),
        image_encoder=filled(CLIPVisionModel(vision)),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224),
        transformer=_beside_the_input(filled, image_dim=vision.hidden_size, added_kv_proj_dim=width),
        scheduler=_unipc(flow_shift=3.0),
    )


def with_two_nets(filled: Filled, tokenizer: T5Tokenizer) -> Any:
    """As Wan 2.2 A14B: a net for the noisy steps, another one for the last."""
    return WanImageToVideoPipeline(
        **_words(filled, tokenizer),
        vae=_vae(filled),
        transformer=_beside_the_input(filled),
        transformer_2=_beside_the_input(filled, eps=1e-3),
        boundary_ratio=0.9,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def with_one_seen_frame(filled: Filled, tokenizer: T5Tokenizer) -> Any:
    """As Wan 2.2 TI2V 5B: the picture is the first latent frame, and a latent's side a sixteenth of the picture's.

    It is published as the class that makes clips from words alone, which it can as well.
    """
    return WanPipeline(
        **_words(filled, tokenizer),
        vae=_vae(
            filled,
            is_residual=True,
            z_dim=_LATENTS_TI2V,
            latents_mean=[0.0] * _LATENTS_TI2V,
            latents_std=[1.0] * _LATENTS_TI2V,
            patch_size=2,
            in_channels=12,
            out_channels=12,
            scale_factor_spatial=16,
        ),
        transformer=_net(filled, _LATENTS_TI2V, _LATENTS_TI2V),
        expand_timesteps=True,
        scheduler=_unipc(flow_shift=5.0),
    )


def _words(filled: Filled, tokenizer: T5Tokenizer) -> dict[str, Any]:
    shape = {"d_model": _TEXT, "d_kv": 16, "d_ff": _TEXT, "num_layers": 1, "num_heads": 2}
    config = UMT5Config(vocab_size=len(tokenizer), **shape)
    return {"tokenizer": tokenizer, "text_encoder": filled(UMT5EncoderModel(config))}


def _vae(filled: Filled, **form: Any) -> Any:
    """Four levels and a time factor of 4, as in the real ones."""
    return filled(AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **form))


def _beside_the_input(filled: Filled, **form: Any) -> Any:
    """A net that gets the input's latents and their mask beside those that it draws."""
    return _net(filled, 2 * _LATENTS + _MASK, _LATENTS, **form)


def _net(filled: Filled, channels_in: int, channels_out: int, **form: Any) -> Any:
    return filled(
        WanTransformer3DModel(
            num_attention_heads=_HEADS,
            attention_head_dim=_HEAD,
            in_channels=channels_in,
            out_channels=channels_out,
            text_dim=_TEXT,
            freq_dim=32,
            ffn_dim=2 * _HEADS * _HEAD,
            num_layers=2,
            **form,
        )
    )


def _unipc(flow_shift: float) -> Any:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift)
