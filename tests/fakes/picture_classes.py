"""Tiny random models of classes that the project makes no model folders of."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKLQwenImage,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPAGPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from runner.models import tiny_nets
from runner.models.tiny_nets import NOISE

WIDTH = 32


def pixart_alpha() -> Any:
    """It tells its steps as diffusers did before, and draws by a net that says a variance too."""
    return PixArtAlphaPipeline(**_pixart(sample_size=8))


def pixart_sigma() -> Any:
    """Its published sizes have bins."""
    return PixArtSigmaPipeline(**_pixart(sample_size=32))


def _pixart(sample_size: int) -> dict[str, Any]:
    net = PixArtTransformer2DModel(
        sample_size=sample_size, num_layers=1, patch_size=2, attention_head_dim=16, num_attention_heads=2,
        caption_channels=2 * WIDTH, in_channels=4, cross_attention_dim=WIDTH, out_channels=8, norm_eps=1e-6,
        use_additional_conditions=False,
    )  # fmt: skip
    return {
        "transformer": _random(net),
        "text_encoder": _t5(),
        "tokenizer": tiny_nets._t5_tokenizer(),
        "vae": tiny_nets._vae(),
        "scheduler": DPMSolverMultistepScheduler(**NOISE),
    }


def latent_consistency() -> Any:
    """Its net reads guidance as a number."""
    shape = tiny_nets._unet_shape() | {"cross_attention_dim": WIDTH, "time_cond_proj_dim": 16}
    parts = tiny_nets._sd_parts(in_channels=4)
    return LatentConsistencyModelPipeline(
        **parts | {"unet": _random(UNet2DConditionModel(**shape)), "scheduler": LCMScheduler(**NOISE)}
    )


def qwen_image() -> Any:
    """Guided by two calls of its net, under a name of its own."""
    torch.manual_seed(0)
    text = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 2048,
                "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
                "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
            },
            vision_config={
                "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
            },
        )
    )  # fmt: skip
    return QwenImagePipeline(
        transformer=_random(
            QwenImageTransformer2DModel(
                patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16,
                num_attention_heads=2, joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
            )
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_random(
            AutoencoderKLQwenImage(
                base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
                latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
            )
        ),
        text_encoder=_random(text),
        tokenizer=_letters(),
    )  # fmt: skip


def z_image() -> Any:
    """A class that is not well known and draws as asked."""
    net = ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=WIDTH, n_layers=1, n_refiner_layers=1,
        n_heads=2, n_kv_heads=2, cap_feat_dim=16, axes_dims=[8, 4, 4], axes_lens=[256, 64, 64],
    )  # fmt: skip
    text = Qwen3Model(
        Qwen3Config(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            vocab_size=300, head_dim=8,
        )
    )  # fmt: skip
    letters = _letters()
    letters.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_nets._vae(shift_factor=0.1),
        text_encoder=_random(text),
        tokenizer=letters,
        transformer=_random(net),
    )


def aura_flow() -> Any:
    """Another one."""
    net = AuraFlowTransformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=2 * WIDTH, caption_projection_dim=WIDTH,
        out_channels=4, pos_embed_max_size=1024,
    )  # fmt: skip
    return AuraFlowPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_nets._vae(),
        text_encoder=_t5(),
        tokenizer=tiny_nets._t5_tokenizer(),
        transformer=_random(net),
    )


def sana() -> Any:
    """A side of its latents is a 32nd of the picture's."""
    vae = AutoencoderDC(
        in_channels=3, latent_channels=4, attention_head_dim=2,
        encoder_block_types=("ResBlock",) * 6, decoder_block_types=("ResBlock",) * 6,
        encoder_block_out_channels=(8,) * 6, decoder_block_out_channels=(8,) * 6,
        encoder_qkv_multiscales=((),) * 6, decoder_qkv_multiscales=((),) * 6,
        encoder_layers_per_block=(1,) * 6, decoder_layers_per_block=(1,) * 6,
        downsample_block_type="conv", upsample_block_type="interpolate", decoder_norm_types="rms_norm",
        decoder_act_fns="silu", scaling_factor=0.41407,
    )  # fmt: skip
    text = Gemma2Model(
        Gemma2Config(
            head_dim=8, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_key_value_heads=2,
            num_hidden_layers=1, vocab_size=300,
        )
    )  # fmt: skip
    net = SanaTransformer2DModel(
        patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=16,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=WIDTH, caption_channels=16,
        sample_size=32,
    )  # fmt: skip
    return SanaPipeline(
        tokenizer=_letters(),
        text_encoder=_random(text),
        vae=_random(vae),
        transformer=_random(net),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )


def pag() -> Any:
    """Stable Diffusion with another kind of guidance beside."""
    return StableDiffusionPAGPipeline(**tiny_nets._sd_parts(in_channels=4))


def controlled() -> Any:
    """A class that wants a picture where a job has none."""
    parts = tiny_nets._sd_parts(in_channels=4)
    return StableDiffusionControlNetPipeline(**parts, controlnet=ControlNetModel.from_unet(parts["unet"]))


def _t5() -> Any:
    shape = {"d_model": 2 * WIDTH, "d_kv": 16, "d_ff": 2 * WIDTH, "num_layers": 1, "num_heads": 2}
    return _random(T5EncoderModel(T5Config(vocab_size=len(tiny_nets._t5_vocabulary()), **shape)))


def _letters() -> Any:
    """A tokenizer of single bytes, as the families of Qwen have."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={"<pad>": 0, **{letter: n + 1 for n, letter in enumerate(alphabet)}}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<pad>", eos_token="<pad>")


def _random(net: Any) -> Any:
    """Weights of this size are seen in the picture; also where training begins with zeros."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return net.eval()
