"""From an upscaler's pickled checkpoint to the file of safetensors that a runner reads."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from runner.backend import SetupError
from runner.models.upscaler import describe

NAME = "model.safetensors"
_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Under which of a checkpoint's entries trainers put the weights, the smoothed ones first."""


def convert(source: Path, folder: Path) -> str:
    """Writes the upscaler in `source` into `folder` and returns its architecture's name.

    Only tensors and plain values are read: a pickle that names any code is refused. Raises SetupError, OSError.
    """
    tensors = _tensors(_unpickled(source))
    target = folder / NAME
    if target.exists():
        raise SetupError(f"{target}: exists; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_file(tensors, target)
        target.chmod(0o644)
        return str(describe(target).architecture.name)
    except SetupError as error:
        target.unlink()
        raise SetupError(str(error).replace(str(target), str(source))) from None


def _unpickled(source: Path) -> object:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise SetupError(f"{source}: not a checkpoint of plain tensors: {reason}") from None


def _tensors(content: object) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, wherever its trainer put them."""
    found: Any = content
    while isinstance(found, Mapping) and (inner := next((key for key in _WRAPPERS if key in found), None)):
        found = found[inner]
    if not isinstance(found, Mapping):
        return {}
    named = {str(name).removeprefix("module."): value for name, value in found.items()}
    return {name: value.clone().contiguous() for name, value in named.items() if isinstance(value, torch.Tensor)}
