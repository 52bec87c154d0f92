"""The models of the toy world that come with this package: how they are called, where they lie, what they know."""

from __future__ import annotations

import shutil
from pathlib import Path

from runner.models.digest import CARD, read_json

PICTURE = "reelnet/toy-world"
"""A Stable Diffusion that draws the toy world from words, at 128×128."""
CLIP = "reelnet/toy-world-clip"
"""A Wan that moves the shape of a picture of the toy world as words say, at 128×128."""
MODELS = (PICTURE, CLIP)
REPORT = "README.md"
"""Beside the weights: how they were trained, and how often they are right. No part of the model."""
_HOME = Path(__file__).parent / "models"


def folder_of(name: str) -> Path:
    """Where one of MODELS lies in this installation."""
    return _HOME / name.rpartition("/")[2]


def card(name: str) -> dict[str, object]:
    """The card of one of MODELS. Raises SetupError where the installation lacks it."""
    return read_json(folder_of(name) / CARD)


def copy(name: str, folder: Path) -> None:
    """Copies one of MODELS to a new folder. Raises OSError."""
    shutil.copytree(folder_of(name), folder)
