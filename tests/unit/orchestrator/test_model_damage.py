"""What a copy of a model that was cut short lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.model_damage import damage
from orchestrator.models_on_disk import judge
from tests.fakes.models import model_folder, safetensors, write

NET = "unet/diffusion_pytorch_model.safetensors"
SHARD = "text_encoder/model-00002-of-00002.safetensors"
INDEX = "text_encoder/model.safetensors.index.json"


def cut(name: str) -> Callable[[Path], None]:
    """The last byte of a file is not there yet."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size - 1)


def link(folder: Path) -> None:
    (folder / NET).unlink()
    (folder / NET).symlink_to("../../blobs/0")


def emptied(folder: Path) -> None:
    (folder / "tokenizer" / "vocab.json").unlink()


def pickled(folder: Path) -> None:
    (folder / NET).rename(folder / "unet" / "w.bin")


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (cut(NET), "diffusion_pytorch_model.safetensors is no safetensors file, or cut short"),
        (cut(SHARD), "model-00002-of-00002.safetensors is no safetensors file, or cut short"),
        (cut(INDEX), "model.safetensors.index.json names no weights, or is cut short"),
        (lambda folder: (folder / SHARD).unlink(), "which model.safetensors.index.json names"),
        (lambda folder: (folder / NET).write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "tokenizer is missing, which model_index.json names"),
        (emptied, "tokenizer is missing, which model_index.json names"),
        (lambda folder: (folder / "tokenizer/vocab.json").rename(folder / "tokenizer/x.json"), "has no vocabulary"),
        (lambda folder: (folder / NET).unlink(), "unet has no safetensors weights"),
        (pickled, "unet has no safetensors weights"),
        (lambda folder: (folder / "unet" / "config.json").unlink(), "unet has no config.json"),
        (link, "is a link to nothing"),
    ],
)
def test_what_a_copy_lacks(tmp_path: Path, do: Callable[[Path], None], said: str) -> None:
    """The whole folder is sound; the one thing that is taken from it is told."""
    folder = model_folder(tmp_path / "sd")
    assert damage(folder) == ""
    assert judge(folder).fault == ""
    do(folder)
    assert said in damage(folder)
    assert said in judge(folder).fault


def test_what_a_model_does_without(tmp_path: Path) -> None:
    """What lies beside it and is broken, a hidden folder, and the checker that its index names."""
    folder = model_folder(tmp_path / "sd")
    for beside in ("loras", "film", ".cache"):
        (folder / beside).mkdir()
        (folder / beside / "x.safetensors").write_bytes(b"x")
    assert damage(folder) == ""


def test_a_checkpoint_in_one_file_has_nets_without_weights(tmp_path: Path) -> None:
    """The folder's configurations say what its nets are; their weights lie in the file at its top."""
    write(tmp_path / "model_index.json", {"_class_name": "X", "unet": ["diffusers", "UNet2DConditionModel"]})
    write(tmp_path / "unet" / "config.json", {})
    assert "no safetensors weights" in damage(tmp_path)
    safetensors(tmp_path / "model.safetensors")
    assert damage(tmp_path) == ""


def test_an_index_leads_nowhere_else(tmp_path: Path) -> None:
    """Names and values of any kind in it are no components, and nothing outside the folder is looked at."""
    safetensors(tmp_path / "x.safetensors")
    write(tmp_path / "model_index.json", {"../..": ["a", "b"], "boundary": [0.1, 0.2], "c": ["d"], "e": {"f": 1}})
    assert damage(tmp_path) == ""
