"""Which files of a repository make up a model."""

from __future__ import annotations

import pytest

from runner.models.choice import Wish, choose
from runner.models.store import StoreError

SDXL = [
    "README.md",
    "model_index.json",
    "sd_xl_base.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder/flax_model.msgpack",
    "text_encoder_onnx/model.onnx",
    "text_encoder_onnx/config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
]
COMPONENTS = ["scheduler", "text_encoder", "tokenizer", "unet"]
CONFIGS = {name for name in SDXL if name.endswith((".json", ".txt")) and "onnx" not in name and ".index." not in name}


def test_the_folders_of_the_index_and_one_set_of_weights() -> None:
    """Shards come with their index; other variants, other formats and other folders stay away."""
    assert set(choose(SDXL, COMPONENTS, Wish())) == CONFIGS | {
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
    }


def test_a_variant_in_every_folder_that_has_weights() -> None:
    """The index of the other weights' shards stays away."""
    assert set(choose(SDXL, COMPONENTS, Wish("fp16"))) == CONFIGS | {
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    }


def test_a_variant_of_shards() -> None:
    """Named as diffusers does."""
    names = [
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    ]
    assert choose(["unet/model.safetensors", *names], ["unet"], Wish("fp16")) == names


def test_one_file_instead_of_the_folders_weights() -> None:
    """A single checkpoint, with the configurations that say what is in it."""
    assert set(choose(SDXL, COMPONENTS, Wish(weights=("sd_xl_base.safetensors",)))) == CONFIGS | {
        "sd_xl_base.safetensors"
    }


@pytest.mark.parametrize(
    ("paths", "components", "wish", "said"),
    [
        (["unet/a.bin"], ["unet"], Wish(), r"unet: its weights are pickles \(unet/a.bin\)"),
        (["a.ckpt", "b.pt"], None, Wish(), r"pickles \(a.ckpt, b.pt\)"),
        (["unet/m.fp16.safetensors"], ["unet"], Wish(), "say --variant fp16"),
        (["unet/m.safetensors"], ["unet"], Wish("fp16"), "leave --variant out"),
        (["m.fp16.safetensors"], None, Wish(), "see --variant and --file"),
        (["a.safetensors"], None, Wish(weights=("b.safetensors",)), "no safetensors file 'b.safetensors'"),
        (["config.json"], None, Wish(), "no safetensors weights"),
        (["config.json"], ["unet"], Wish(), "no safetensors weights"),
    ],
)
def test_what_cannot_be_had_is_said(paths: list[str], components: list[str] | None, wish: Wish, said: str) -> None:
    """And what to say instead, where there is something."""
    with pytest.raises(StoreError, match=said):
        choose(paths, components, wish)


def test_a_safety_checker_comes_unless_it_is_left_out() -> None:
    """One that is a pickle stays away, and the model comes without it."""
    safe = ["unet/m.safetensors", "safety_checker/config.json", "safety_checker/m.safetensors"]
    components = ["unet", "safety_checker"]
    assert choose(safe, components, Wish()) == sorted(safe)
    assert choose(safe, components, Wish(safety_checker=False)) == ["unet/m.safetensors"]
    pickled = ["unet/m.safetensors", "safety_checker/config.json", "safety_checker/m.bin"]
    assert choose(pickled, components, Wish()) == ["unet/m.safetensors"]


def test_the_card_of_a_stranger_is_not_taken() -> None:
    """reelnet.json is the operator's word, not the repository's; hidden files are nobody's."""
    names = ["reelnet.json", "sub/reelnet.json", ".cache/m.safetensors", "m.safetensors"]
    assert choose(names, None, Wish()) == ["m.safetensors"]


@pytest.mark.parametrize("path", ["../a.json", "/a.json", "a/./b.json", "a/../../b.json", "a\\b.json", "a\nb.json", ""])
def test_paths_stay_below_the_folder(path: str) -> None:
    """One bad path condemns the repository."""
    with pytest.raises(StoreError, match="leads out"):
        choose(["m.safetensors", path], None, Wish())
