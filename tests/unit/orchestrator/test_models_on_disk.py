"""What lies in model folders."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.models_on_disk import fault_of, find_models, look_at
from orchestrator.settings import OrchestratorSettings
from tests.fakes.models import model_folder


def made(folder: Path, *names: str) -> Path:
    """A folder with files of three bytes."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"abc")
    return folder


def test_one_checkpoint_is_an_upscaler(tmp_path: Path) -> None:
    """A folder with one file of weights and no configuration is a model, as upscalers are published."""
    found = look_at(made(tmp_path / "one", "x4.safetensors", "README.md"))
    assert found is not None
    assert (found.class_name, found.weight_bytes, found.pickles) == ("Spandrel", 3, ())


def test_a_pickled_checkpoint_is_found_and_named(tmp_path: Path) -> None:
    """Its operator is told which file is to be converted."""
    found = look_at(made(tmp_path / "one", "RealESRGAN_x4.pth"))
    assert found is not None
    assert (found.weight_bytes, found.pickles) == (0, ("RealESRGAN_x4.pth",))


def test_parts_of_models_are_no_upscalers(tmp_path: Path) -> None:
    """A net of a diffusers model has a configuration; two checkpoints are a collection; no folder is nothing."""
    assert look_at(made(tmp_path / "unet", "model.safetensors", "config.json")) is None
    assert look_at(made(tmp_path / "two", "a.safetensors", "b.safetensors")) is None
    assert look_at(tmp_path / "none") is None


def test_upscalers_are_found_beside_diffusers_models(tmp_path: Path) -> None:
    """`init` names both."""
    made(tmp_path / "acme" / "esrgan", "model.safetensors")
    sd = made(tmp_path / "acme" / "sd", "model.safetensors")
    (sd / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    assert [(name, model.class_name) for name, model in find_models(tmp_path)] == [
        ("acme/esrgan", "Spandrel"),
        ("acme/sd", "StableDiffusionPipeline"),
    ]


def test_a_fault_can_be_shown(tmp_path: Path) -> None:
    """Whatever a stranger's files are called: it stands in logs and in answers."""
    folder = model_folder(tmp_path / "sd")
    (folder / "x\x1b[2J\udcff.safetensors").write_bytes(b"x")
    settings = OrchestratorSettings.model_validate({"models": [{"model": str(folder)}]})
    fault = fault_of(settings.models[0], settings)
    assert "is no safetensors file" in fault
    assert fault.isprintable()
