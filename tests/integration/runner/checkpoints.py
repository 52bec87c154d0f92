"""The tiny Stable Diffusion as one checkpoint file, in the names that the original trainers write."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

_RESNET = (
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
)
_UNET = (
    ("conv_in", "input_blocks.0.0"),
    ("down_blocks.0.resnets.0", "input_blocks.1.0"),
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
    ("down_blocks.1.resnets.0", "input_blocks.3.0"),
    ("down_blocks.1.attentions.0", "input_blocks.3.1"),
    ("mid_block.resnets.0", "middle_block.0"),
    ("mid_block.attentions.0", "middle_block.1"),
    ("mid_block.resnets.1", "middle_block.2"),
    ("up_blocks.0.resnets.0", "output_blocks.0.0"),
    ("up_blocks.0.attentions.0", "output_blocks.0.1"),
    ("up_blocks.0.resnets.1", "output_blocks.1.0"),
    ("up_blocks.0.attentions.1", "output_blocks.1.1"),
    ("up_blocks.0.upsamplers.0", "output_blocks.1.2"),
    ("up_blocks.1.resnets.0", "output_blocks.2.0"),
    ("up_blocks.1.resnets.1", "output_blocks.3.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
)
_VAE = (
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    ("conv_shortcut", "nin_shortcut"),
    ("conv_norm_out", "norm_out"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_out\.0", "attn_1.proj_out"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
)


def write_checkpoint(diffusers_folder: Path, folder: Path) -> Path:
    """A model's folder with `model.safetensors` at its top and no other weights: configurations and tokenizer only."""
    weights = {
        **{f"model.diffusion_model.{_unet(k)}": v for k, v in _read(diffusers_folder / "unet").items()},
        **{f"first_stage_model.{_vae(k)}": v for k, v in _read(diffusers_folder / "vae").items()},
        **{
            f"cond_stage_model.transformer.text_model.{k.removeprefix('text_model.')}": v
            for k, v in _read(diffusers_folder / "text_encoder").items()
        },
    }
    for name in [
        name for name in weights if ".attn_1." in name and name.endswith(("q.weight", "k.weight", "v.weight"))
    ]:
        weights[name] = weights[name][:, :, None, None].contiguous()
    for name in [name for name in weights if ".attn_1.proj_out.weight" in name]:
        weights[name] = weights[name][:, :, None, None].contiguous()
    shutil.copytree(diffusers_folder, folder, ignore=shutil.ignore_patterns("*.safetensors", "reelnet.json"))
    save_file(weights, folder / "model.safetensors")
    return folder


def _read(folder: Path) -> dict[str, object]:
    (path,) = folder.glob("*.safetensors")
    return dict(load_file(path))


def _unet(key: str) -> str:
    start, renamed = next(row for row in _UNET if key.startswith(row[0] + "."))
    rest = key.removeprefix(start)
    for name, original in _RESNET if "resnets" in start else ():
        rest = rest.replace(f".{name}.", f".{original}.")
    return renamed + rest


def _vae(key: str) -> str:
    for name, original in _VAE:
        key = re.sub(name, original, key)
    # The original counts the decoder's levels from the picture, diffusers from the latents.
    key = re.sub(r"decoder\.up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"decoder.up.{3 - int(m[1])}.block.{m[2]}", key)
    return re.sub(r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{3 - int(m[1])}.upsample", key)
