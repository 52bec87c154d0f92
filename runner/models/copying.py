"""A model that is on this machine already into the folder of models."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from reelnet.errors import ConfigError, StartError
from reelnet.jobs import Licence
from reelnet.model_classes import FILM_PIPELINE, VIDEO_PIPELINE, pipelines_of
from runner.models.checks import GIB, check_licence, check_model, free_bytes
from runner.models.digest import FILM, PICKLES, WEIGHTS, class_of, model_files
from runner.models.manifest import Manifest, files_in, write_manifest
from runner.models.meter import Meter
from runner.models.store import ModelStore, StoreError

_BLOCK = 4 << 20
KINDS = (FILM,)
"""Files of other layouts that can be converted."""


@dataclass(frozen=True, slots=True)
class Import:
    """What to import. `link`: hard links instead of copies. `kind`: None for safetensors, else one of KINDS.

    `beside`: the video model in whose folder a FILM network is stored; None: it is a model of its own.
    """

    path: Path
    model: str
    licence: Licence = field(default_factory=Licence)
    accept_licence: bool = False
    link: bool = False
    kind: str | None = None
    beside: str | None = None
    replace: bool = False
    reserve_bytes: int = GIB


def import_model(
    order: Import, store: ModelStore, meter: Meter, free: Callable[[Path], int] = free_bytes
) -> tuple[Path, Manifest]:
    """Stores a folder, a safetensors file or a file of a known kind; gives its folder and manifest.

    Raises ConfigError, StoreError, StartError (what converts is not installed), SetupError (damaged), OSError.
    """
    check_licence(order.model, order.licence, order.accept_licence)
    target = _beside(order.beside, store) if order.beside else store.folder(order.model)
    if target.is_dir() and not order.replace:
        raise StoreError(f"{target}: is there already; say --replace to replace it")
    with store.draft(order.model, "import") as draft:
        shutil.rmtree(draft)  # a copy is not resumed
        draft.mkdir()
        if order.kind is None:
            _copy_all(_sources(order.path), draft, order, meter, free)
        else:
            _film().convert(order.path, draft)
        check_model(draft)
        if order.beside and FILM_PIPELINE not in pipelines_of(class_of(draft)):
            raise StoreError(f"{order.path}: not a FILM network, and nothing else can lie beside a model")
        source = {"kind": "folder" if order.path.is_dir() else "file", "name": order.path.name}
        manifest = Manifest(order.model, order.licence, files_in(draft), source, order.accept_licence)
        write_manifest(draft, manifest)
        return store.install(draft, target), manifest


def _beside(model: str, store: ModelStore) -> Path:
    """The folder for FILM in a video model's folder. Raises StoreError for another model, or one that is not there."""
    found = store.get(model)
    if VIDEO_PIPELINE not in pipelines_of(found.class_name):
        raise StoreError(f"{model}: makes no clips of pictures, so there is nothing for FILM to do")
    return found.folder / FILM


def _sources(path: Path) -> dict[str, Path]:
    """The files of a model by their names in the store. Raises ConfigError, StoreError."""
    if path.is_dir():
        found = {file.relative_to(path).as_posix(): file for file in model_files(path)}
        if any(file.suffix in WEIGHTS for file in found.values()):
            return found
        pickles = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.suffix in PICKLES)
        if pickles:
            raise StoreError(f"{path}: its weights are pickles ({pickles[0]}), which can run code; convert them")
        raise StoreError(f"{path}: has no safetensors weights")
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file or folder")
    if path.suffix in WEIGHTS:
        return {path.name: path}
    if path.suffix in PICKLES:
        raise StoreError(f"{path}: may be a pickle, which can run code; convert it to safetensors, or see --as")
    raise StoreError(f"{path}: neither a folder nor a safetensors file")


def _copy_all(sources: dict[str, Path], draft: Path, order: Import, meter: Meter, free: Callable[[Path], int]) -> None:
    total = sum(path.stat().st_size for path in sources.values())
    if not order.link and total + order.reserve_bytes > free(draft):
        raise StoreError(
            f"{draft.parent.parent}: {decimal(total)} are to come, {decimal(free(draft))} are free; see --link"
        )
    meter.expect(total)
    for name, path in sources.items():
        target = draft / name
        target.parent.mkdir(parents=True, exist_ok=True)
        meter.begin(name)
        if order.link:
            _link(path, target)
            meter.advance(path.stat().st_size)
        else:
            _copy(path, target, meter)


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path.resolve(), target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        raise StoreError(
            f"{path}: cannot be linked into {target.parent} ({error.strerror}); leave --link out"
        ) from None


def _copy(path: Path, target: Path, meter: Meter) -> None:
    with path.open("rb") as source, target.open("wb") as out:
        while block := source.read(_BLOCK):
            out.write(block)
            meter.advance(len(block))
        out.flush()
        os.fsync(out.fileno())


def _film() -> Any:
    """The module that converts FILM: it needs torch, which no other import does."""
    try:
        return importlib.import_module("runner.models.film_folder")
    except ModuleNotFoundError as error:
        raise StartError(f"{error.name} is not installed; install the extra: reelnet[diffusers]") from None
