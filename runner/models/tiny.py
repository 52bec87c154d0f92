"""Tiny models with random weights, in the layout of real ones: true model code in a second or two on a CPU."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from runner.backend import SetupError
from runner.models import film_folder
from runner.models.digest import CARD, read_json, survey
from runner.models.film import Film, FilmShape
from runner.models.loading import quiet_libraries

SD = "reelnet/tiny-random-sd"
SVD = "reelnet/tiny-random-svd"
FILM = "reelnet/tiny-random-film"
GENERATOR = 2
"""Raised when what is written here changes, so that older folders are made anew."""
_SEED = 20240917
_WIDTH = 32
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_all(folder: Path) -> list[Path]:
    """All models under `folder`; one that is there and whole is left alone. Raises OSError."""
    quiet_libraries()
    return [
        _make(folder / SD, _stable_diffusion),
        _make(folder / SVD, _stable_video),
        _make(folder / FILM, _Interpolation),
    ]


def _make(target: Path, build: Callable[[], Any]) -> Path:
    if not _is_whole(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as draft:
            _write(Path(draft) / target.name, build())
            shutil.rmtree(target, ignore_errors=True)
            (Path(draft) / target.name).rename(target)
    return target


def _is_whole(target: Path) -> bool:
    try:
        card = read_json(target / CARD)
        return card.get("generator") == GENERATOR and card.get("digest") == survey(target).digest()
    except SetupError:
        return False


def _write(folder: Path, pipe: Any) -> None:
    pipe.save_pretrained(folder, safe_serialization=True)
    card = {
        "licence": {"id": "Apache-2.0", "commercial": "yes"},
        "note": "random weights: draws nothing sensible",
        "generator": GENERATOR,
        "digest": survey(folder).digest(),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", "utf-8")
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes 0600; a container reads them as somebody else


def _stable_diffusion() -> Any:
    return StableDiffusionPipeline(
        vae=_filled(AutoencoderKL(**_vae_shape(), norm_num_groups=8, up_block_types=("UpDecoderBlock2D",) * 4)),
        text_encoder=_filled(CLIPTextModel(_text_config())),
        tokenizer=_tokenizer(),
        unet=_filled(
            UNet2DConditionModel(
                sample_size=64,
                block_out_channels=(_WIDTH // 2, _WIDTH),  # attention over 1024 × 576 is what a step costs
                layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                cross_attention_dim=_WIDTH,
                attention_head_dim=2,
                norm_num_groups=8,
            )
        ),
        scheduler=DDIMScheduler(**_NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


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
            **_NOISE,
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


class _Interpolation:
    """FILM with narrow layers, which saves itself as the others do."""

    def save_pretrained(self, folder: Path, *, safe_serialization: bool) -> None:
        assert safe_serialization, "there is no other way"
        shape = FilmShape(filters=4, flow_filters=(4, 4, 8, 8))
        film_folder.write(folder, shape, _filled(Film(shape)).state_dict())


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


def _tokenizer() -> Any:
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
    if name.endswith("bias"):
        return np.zeros(shape, np.float32)
    if "norm" in name and len(shape) == 1:
        return np.ones(shape, np.float32)
    fan_in = 1 if "embedding" in name and len(shape) < 4 else math.prod(shape[1:])
    bound = np.float32(math.sqrt(3 / fan_in))
    return (random.random(shape, np.float32) * 2 - 1) * bound
