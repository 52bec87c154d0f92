"""What identifies a model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from reelnet.jobs import Licence
from runner.backend import SetupError
from runner.models.digest import survey


def _tensors(values: bytes = b"abcd") -> bytes:
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(values)], "data_offsets": [0, len(values)]}}).encode()
    return len(header).to_bytes(8, "little") + header + values


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model."""
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(_tensors())
    return folder


def test_digest_is_over_paths_sizes_and_contents(model: Path) -> None:
    """sha256 over one line for each file, sorted by path."""
    names = ["model_index.json", "unet/config.json", "unet/weights.safetensors"]
    content = {name: (model / name).read_bytes() for name in names}
    lines = "".join(f"{n}\0{len(content[n])}\0{hashlib.sha256(content[n]).hexdigest()}\n" for n in names)
    files = survey(model)
    assert files.class_name == "FluxPipeline"
    assert files.digest() == hashlib.sha256(lines.encode()).hexdigest()


def test_digest_changes_with_the_weights_only(model: Path) -> None:
    """A licence note, a picture and a download cache change nothing; one byte of the weights does."""
    before = survey(model).digest()
    (model / "reelnet.json").write_text("{}")
    (model / "README.md").write_text("hello")
    (model / ".cache").mkdir()
    (model / ".cache" / "state.json").write_text("{}")
    assert survey(model).digest() == before
    (model / "unet" / "weights.safetensors").write_bytes(_tensors(b"abce"))
    assert survey(model).digest() != before


@pytest.mark.parametrize("folder", ["loras/ink", "film"])
def test_what_lies_beside_a_model_is_no_part_of_it(model: Path, folder: str) -> None:
    """LoRAs and FILM have digests of their own, and weights that are damaged there are not the model's."""
    before = survey(model).digest()
    (model / folder).mkdir(parents=True)
    (model / folder / "model.safetensors").write_bytes(_tensors(b"more")[:-1])
    (model / folder / "config.json").write_text("{}")
    assert survey(model).digest() == before
    (model / folder).rename(model / "other")
    with pytest.raises(SetupError, match="download it again"):
        survey(model)


def test_the_licence_is_the_card_s(model: Path) -> None:
    """Without a card it is unknown, never assumed."""
    assert survey(model).licence == Licence("LicenseRef-unknown", "unknown")
    (model / "reelnet.json").write_text('{"licence": {"id": "MIT", "commercial": "yes"}}')
    assert survey(model).licence == Licence("MIT", "yes")


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    """The operator learns which folder was looked for."""
    with pytest.raises(SetupError, match="there is no such model folder"):
        survey(tmp_path / "nowhere")


def test_pickles_are_refused(model: Path) -> None:
    """A pickle runs code when it is read."""
    (model / "unet" / "weights.safetensors").rename(model / "unet" / "weights.bin")
    with pytest.raises(SetupError, match=r"pickles \(unet/weights.bin\).*only safetensors"):
        survey(model)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        _tensors()[:-1],
        _tensors() + b"x",
        bytes(8) + b"{}",
        b"\xff" * 64,
        (4).to_bytes(8, "little") + b"[1] ",
    ],
)
def test_damaged_weights_are_refused(model: Path, content: bytes) -> None:
    """A download that broke off is found before a model is built of it."""
    (model / "unet" / "weights.safetensors").write_bytes(content)
    with pytest.raises(SetupError, match="download it again"):
        survey(model)


def test_a_damaged_index_is_refused(model: Path) -> None:
    """model_index.json decides what a folder is."""
    (model / "model_index.json").write_text("{")
    with pytest.raises(SetupError, match="cannot be read"):
        survey(model)
