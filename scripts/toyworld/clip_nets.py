"""The parts of the clip model, as they are before they have learned anything.

It is a Wan of the form of its 2.2 TI2V: the picture is the first latent frame, so that a clip begins with it.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from runner.toyworld.words import CLIP_VOCABULARY

CHANNELS = 16
"""Of the latents; each of their cells is 16×16 pixels of one frame, or of four."""
TEXT = 32
SHIFT = 3.0
TOKENS = 512
"""The pipeline pads prompts to as many."""


def vae() -> AutoencoderKLWan:
    """Narrow. Its shortcuts hand on averages, so that it needs no other beginning."""
    return AutoencoderKLWan(
        base_dim=8,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=1,
        z_dim=CHANNELS,
        is_residual=True,
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_spatial=16,
        latents_mean=[0.0] * CHANNELS,
        latents_std=[1.0] * CHANNELS,
    )


def tokenizer() -> T5Tokenizer:
    """A token for each word of the world, and for each printable ASCII letter of other words."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(f"▁{word}", -1.0) for word in CLIP_VOCABULARY if len(word) > 1]
    return T5Tokenizer(
        vocab=[*special, *words, *((chr(code), -4.0) for code in range(33, 127))], extra_ids=0, model_max_length=TOKENS
    )


def text_encoder(tokens: int) -> UMT5EncoderModel:
    """One layer."""
    config = UMT5Config(
        vocab_size=tokens, d_model=TEXT, d_kv=16, d_ff=2 * TEXT, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    return UMT5EncoderModel(config)


def transformer() -> WanTransformer3DModel:
    """Reads the words at every layer.

    A prompt's few words stand among hundreds of empty places. The norms and values of the layers that read them begin
    large, so that the words are not averaged away before anything is learned.
    """
    net = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=24,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=TEXT,
        freq_dim=64,
        ffn_dim=192,
        num_layers=4,
    )
    with torch.no_grad():
        for block in net.blocks:
            block.attn2.norm_q.weight.fill_(2.0)
            block.attn2.norm_k.weight.fill_(2.0)
            block.attn2.to_v.weight.mul_(4.0)
    return net


def pipeline(
    vae: AutoencoderKLWan, text: UMT5EncoderModel, transformer: WanTransformer3DModel
) -> WanImageToVideoPipeline:
    """The whole model."""
    return WanImageToVideoPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer(),
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        expand_timesteps=True,
    )
