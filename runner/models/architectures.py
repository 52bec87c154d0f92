"""Well-known models as their published configurations say, without weights: enough to estimate them without a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from runner.models import full, full_nets
from runner.models.tracing import META


@dataclass(frozen=True, slots=True)
class Published:
    """A model's class, and what makes its nets on the meta device, by the names of their components."""

    class_name: str
    components: Callable[[], Mapping[str, Any]]


def _full(name: str) -> Callable[[], Mapping[str, Any]]:
    return lambda: dict(full_nets.build(name).components)


def _stable_diffusion_3() -> Mapping[str, Any]:
    with META:
        return {
            "vae": _vae(),
            "text_encoder": CLIPTextModelWithProjection(_clip_l()),
            "text_encoder_2": CLIPTextModelWithProjection(_clip_g()),
            "text_encoder_3": T5EncoderModel(_t5_xxl()),
            "transformer": SD3Transformer2DModel(
                sample_size=128,
                num_layers=24,
                num_attention_heads=24,
                joint_attention_dim=4096,
                caption_projection_dim=1536,
                pos_embed_max_size=192,
            ),
        }


def _flux_dev() -> Mapping[str, Any]:
    with META:
        return {
            "vae": _vae(),
            "text_encoder": CLIPTextModel(_clip_l()),
            "text_encoder_2": T5EncoderModel(_t5_xxl()),
            "transformer": FluxTransformer2DModel(guidance_embeds=True),
        }


def _vae() -> Any:
    """Of 16 channels, without convolutions around the latents."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=16,
        sample_size=1024,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _clip_l() -> Any:
    shape = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    return CLIPTextConfig(**shape, projection_dim=768)


def _clip_g() -> Any:
    shape = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    return CLIPTextConfig(**shape, projection_dim=1280, hidden_act="gelu")


def _t5_xxl() -> Any:
    shape = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24}
    return T5Config(**shape, vocab_size=32128, feed_forward_proj="gated-gelu")


PUBLISHED: Mapping[str, Published] = {
    "sd15": Published("StableDiffusionPipeline", _full(full.SD15)),
    "sdxl": Published("StableDiffusionXLPipeline", _full(full.SDXL)),
    "svd-xt": Published("StableVideoDiffusionPipeline", _full(full.SVD_XT)),
    "sd3-medium": Published("StableDiffusion3Pipeline", _stable_diffusion_3),
    "flux-dev": Published("FluxPipeline", _flux_dev),
}
"""By the names that `runner models estimate` takes."""
