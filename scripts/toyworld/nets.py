"""The parts of the picture model, as they are before they have learned anything."""

from __future__ import annotations

from itertools import pairwise

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from runner.toyworld.scenes import SIDE
from runner.toyworld.words import VOCABULARY

TOKENS = 32
WIDTH = 64
_BYPASS = 8
"""Channels of the VAE that hand on the picture's thumbnail before it has learned."""


def vae() -> AutoencoderKL:
    """Narrow, with one norm group: several would each have too few channels to keep a flat colour.

    It begins as an average over 8×8 pixels and back: every block hands on its first channels. Each colour lies in
    two of them, as it is and negated, because silu(x) - silu(-x) = x. The last two hold ±2, so that the norms divide
    each picture by about the same number.
    """
    net = AutoencoderKL(
        block_out_channels=(8, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        scaling_factor=1.0,
        sample_size=SIDE,
        mid_block_add_attention=False,
        force_upcast=False,
    )
    with torch.no_grad():
        for name, layer in net.named_modules():
            if isinstance(layer, nn.Conv2d) and not name.endswith("conv1"):
                _quieten(layer)
                if name.endswith((".conv", "conv_shortcut")):
                    _hand_on(layer)
        for half in (net.encoder, net.decoder):
            _split_colours(half.conv_in)
            _join_colours(half.conv_out)
        _hand_on(net.quant_conv, 4)
        _hand_on(net.post_quant_conv, 4)
    return net


def _quieten(layer: nn.Conv2d) -> None:
    layer.weight.mul_(0.1)
    layer.bias.zero_()


def _hand_on(layer: nn.Conv2d, channels: int = _BYPASS) -> None:
    """The first channels as they are; where the layer halves the size, the mean of four pixels."""
    size = layer.kernel_size[0]
    for channel in range(min(channels, layer.in_channels, layer.out_channels)):
        layer.weight[channel] = 0
        if layer.stride == (2, 2):
            layer.weight[channel, channel, :2, :2] = 0.25
        else:
            layer.weight[channel, channel, size // 2, size // 2] = 1


def _split_colours(layer: nn.Conv2d) -> None:
    for channel in range(3):
        for row, sign in ((channel, 1.0), (channel + 3, -1.0)):
            layer.weight[row] = 0
            layer.weight[row, channel, 1, 1] = sign
    layer.bias[6], layer.bias[7] = 2.0, -2.0


def _join_colours(layer: nn.Conv2d) -> None:
    for channel in range(3):
        layer.weight[channel] = 0
        layer.weight[channel, channel, 1, 1], layer.weight[channel, channel + 3, 1, 1] = 1.3, -1.3


def tokenizer() -> CLIPTokenizer:
    """CLIP's, with a token for each word of the world; it spells other words in bytes."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    ranks: dict[tuple[str, str], int] = {}
    for word in VOCABULARY:
        parts = _merged([*word[:-1], f"{word[-1]}</w>"], ranks)
        while len(parts) > 1:
            ranks[parts[0], parts[1]] = len(ranks)
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens += [] if parts[0] in tokens else [parts[0]]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    made = CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=list(ranks), model_max_length=TOKENS)
    assert all(len(made(word).input_ids) == 3 for word in VOCABULARY), "a word is not one token"
    return made


def _merged(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """What the merges known so far make of a word, the earliest merge first."""
    while known := [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]:
        _, at = min(known)
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
    return parts


def text_encoder(tokens: int) -> CLIPTextModel:
    """CLIP's, whose embeddings begin as wide as a norm makes them.

    With CLIP's own deviation of 0.02, every word is soon the same vector at the rates that a small net takes.
    """
    net = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=WIDTH,
            max_position_embeddings=TOKENS,
            bos_token_id=tokens - 2,
            eos_token_id=tokens - 1,
            pad_token_id=tokens - 1,
        )
    )
    with torch.no_grad():
        for name, weights in net.named_parameters():
            if "embedding" in name:
                weights.normal_(0, 1.0 if "token" in name else 0.5)
    return net


def unet() -> UNet2DConditionModel:
    """Reads the words at 8×8 and 4×4 cells of the latents."""
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 64, 56),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        attention_head_dim=4,  # diffusers reads the number of heads here
        cross_attention_dim=WIDTH,
        norm_num_groups=8,
    )


def scheduler() -> DDIMScheduler:
    """Ends in noise without any signal, so that a flat ground has the colour that the words ask for."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def pipeline(vae: AutoencoderKL, text: CLIPTextModel, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """The whole model."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer(),
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
