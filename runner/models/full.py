"""Full-size models with random weights: the speed and the memory of real ones, and nothing sensible to look at.

They are for measuring. Looking whether they are there needs no model library.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from reelnet.errors import ConfigError, StartError
from reelnet.jobs import Licence
from runner.backend import SetupError
from runner.models.checks import GIB, free_bytes
from runner.models.digest import survey
from runner.models.manifest import Manifest, files_in, read_manifest, write_manifest
from runner.models.store import StoreError

SD15 = "reelnet/full-random-sd15"
SDXL = "reelnet/full-random-sdxl"
SVD_XT = "reelnet/full-random-svd-xt"
MODELS = {"sd15": SD15, "sdxl": SDXL, "svd-xt": SVD_XT}
"""By the short names that commands take."""
GENERATOR = "1"
"""Raised when what is written changes, so that older folders are made anew."""
RESERVE_BYTES = GIB


def parse_names(text: str | None) -> tuple[str, ...]:
    """The models that `sd15,sdxl` names; all without a text. Raises ConfigError."""
    names = text.split(",") if text else list(MODELS)
    for name in names:
        if name not in MODELS:
            raise ConfigError(f"--only: expected some of {', '.join(MODELS)}; found {name!r}")
    return tuple(MODELS[name] for name in names)


def make(folder: Path, models: Iterable[str], free: Callable[[Path], int] = free_bytes) -> list[Path]:
    """The models under `folder`; one that is there, whole and of this GENERATOR is left alone.

    Raises StoreError before anything is written when the disk has no room for all, StartError without the model
    libraries, OSError.
    """
    targets = {model: folder / model for model in models}
    missing = [model for model, target in targets.items() if not _is_whole(target)]
    if missing:
        pipes = {model: _module("full_nets").build(model) for model in missing}
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, sum(_module("full_weights").weight_bytes(pipe) for pipe in pipes.values()), free)
        for model, pipe in pipes.items():
            _make(targets[model], model, pipe)
    return list(targets.values())


def _make(target: Path, model: str, pipe: Any) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as place:
        draft = Path(place) / target.name
        _module("full_weights").write(draft, pipe)
        source = {"kind": "random", "generator": GENERATOR, "note": "random weights: for measuring alone"}
        write_manifest(draft, Manifest(model, Licence("Apache-2.0", "yes"), files_in(draft), source))
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)


def _is_whole(target: Path) -> bool:
    """By the sizes that its files state: reading all of them takes as long as making them."""
    try:
        survey(target)
        manifest = read_manifest(target)
    except SetupError:
        return False
    return manifest is not None and manifest.source.get("generator") == GENERATOR


def _check_room(folder: Path, needed: int, free: Callable[[Path], int]) -> None:
    room = free(folder)
    if needed + RESERVE_BYTES > room:
        raise StoreError(f"{folder}: {decimal(needed)} are to come, {decimal(room)} are free; name fewer: --only sd15")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"runner.models.{name}")
    except ModuleNotFoundError as error:
        raise StartError(f"{error.name} is not installed; install the extra: reelnet[diffusers]") from None
