"""Tiny models in the layout of real ones: true model code in a second or two on a CPU.

Most have random weights and are made here. Those of the toy world were trained, come with this package, and are copied.

Looking whether they are there needs no model library, so that a caller may ask each time.
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reelnet.errors import StartError
from runner.backend import SetupError
from runner.models import digest
from runner.models.digest import CARD, read_json, survey
from runner.toyworld import trained

SD = "reelnet/tiny-random-sd"
SVD = "reelnet/tiny-random-svd"
SDXL = "reelnet/tiny-random-sdxl"
SD3 = "reelnet/tiny-random-sd3"
FLUX = "reelnet/tiny-random-flux"
PIX2PIX = "reelnet/tiny-random-instruct-pix2pix"
ESRGAN = "reelnet/tiny-random-esrgan"
UPSCALE_SD = "reelnet/tiny-random-sd-x4"
FILM = "reelnet/tiny-random-film"
WAN = "reelnet/tiny-random-wan"
WAN_TWO_NETS = "reelnet/tiny-random-wan-a14b"
WAN_TI2V = "reelnet/tiny-random-wan-ti2v"
RANDOM = (SD, SVD, SDXL, SD3, FLUX, PIX2PIX, ESRGAN, UPSCALE_SD, FILM, WAN, WAN_TWO_NETS, WAN_TI2V)
MODELS = (*RANDOM, *trained.MODELS)
WITH_FILM = (SVD, WAN)
"""Models of video: the tiny FILM lies beside each, so that jobs may ask for frames between their frames."""
LORA = "ink"
"""The LoRA that lies with the tiny Stable Diffusion model, below its `loras`."""
GENERATOR = 4
"""Raised when what `tiny_nets` writes changes, so that older folders are made anew."""


def make_all(folder: Path) -> list[Path]:
    """All tiny models under `folder`; one that is there, whole and of this GENERATOR is left alone.

    Raises OSError, and StartError when a random one has to be made and the model libraries are not installed.
    """
    return [make(folder, name) for name in MODELS]


def make(folder: Path, name: str) -> Path:
    """One of MODELS under `folder`; as `make_all`."""
    target = folder / name
    if not (_is_whole(target) and (name not in WITH_FILM or _is_whole(target / digest.FILM))):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as draft:
            _write(Path(draft) / target.name, name)
            shutil.rmtree(target, ignore_errors=True)
            (Path(draft) / target.name).rename(target)
    return target


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"runner.models.{name}")
    except ModuleNotFoundError as error:
        raise StartError(f"{error.name} is not installed; install the extra: reelnet[diffusers]") from None


def _is_whole(target: Path) -> bool:
    try:
        card = read_json(target / CARD)
        return card.get("digest") == survey(target).digest() and _is_of_today(card, target)
    except SetupError:
        return False


def _is_of_today(card: Mapping[str, object], target: Path) -> bool:
    name = f"{target.parent.name}/{target.name}"
    if name in trained.MODELS:
        return card == trained.card(name)
    return card.get("generator") == GENERATOR


def _write(folder: Path, name: str) -> None:
    if name in trained.MODELS:
        trained.copy(name, folder)
    else:
        _write_random(folder, name)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes 0600; a container reads them as somebody else


def _write_random(folder: Path, name: str) -> None:
    _module("tiny_nets").build(name).save_pretrained(folder, safe_serialization=True)
    if name == SD:
        _module("tiny_lora").write_lora(folder / digest.LORAS / LORA)
    if name in WITH_FILM:
        _write(folder / digest.FILM, FILM)
    write_card(folder, {"note": "random weights: draws nothing sensible", "generator": GENERATOR})


def write_card(folder: Path, facts: Mapping[str, object]) -> None:
    """The model's card: these facts, its licence, which is this program's, and the digest of what lies there."""
    card = {"licence": {"id": "Apache-2.0", "commercial": "yes"}, **facts, "digest": survey(folder).digest()}
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", "utf-8")
