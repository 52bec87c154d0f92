"""What lies in model folders, by their files' names and sizes alone: nothing is read that could be large."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic_core import from_json

from orchestrator.settings import ModelSettings, OrchestratorSettings, SyntheticOptions
from orchestrator.status import ModelStatus
from reelnet.home import model_dir, models_home
from reelnet.operating.state_files import read_bounded

INDEX, CONFIG = "model_index.json", "config.json"
UPSCALER = "Spandrel"
"""The class that a runner says of one checkpoint without an index."""
INDEX_BYTES = 1 << 20
SAFE, PICKLED = frozenset({".safetensors"}), frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
LFS_MARK = b"version https://git-lfs"
HEADER_BYTES = 100_000_000
"""Most bytes of a safetensors header, as the format's own reader has it."""
DEPTH = 3
FOUND_MOST = 200
"""Models that are looked for at most; and how many folders below the models' folder."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's folder: the pipeline class that it names, its safetensors files' bytes, and names of pickled files."""

    folder: Path
    class_name: str
    weight_bytes: int
    pickles: tuple[str, ...]


def folder_of(model: ModelSettings, settings: OrchestratorSettings) -> Path | None:
    """Where a model's weights have to lie; None for a synthetic one."""
    if isinstance(model.backend, SyntheticOptions):
        return None
    return model_dir(model.model, Path.cwd(), settings.models_home)


def look_at(folder: Path) -> FoundModel | None:
    """What is in a model's folder; None when it is neither in diffusers layout nor one checkpoint. Raises OSError."""
    index = folder / INDEX
    if not index.is_file():
        return _checkpoint(folder)
    if index.stat().st_size > INDEX_BYTES:
        return None
    try:
        named = from_json(read_bounded(index, INDEX_BYTES))
    except ValueError:
        return None
    files = [path for path in folder.rglob("*") if path.is_file()]
    return FoundModel(
        folder,
        str(named.get("_class_name", "")) if isinstance(named, dict) else "",
        sum(path.stat().st_size for path in files if path.suffix in SAFE),
        tuple(str(path.relative_to(folder)) for path in files if path.suffix in PICKLED),
    )


def _checkpoint(folder: Path) -> FoundModel | None:
    """A folder that holds one file of weights and no configuration, as upscalers are published."""
    if not folder.is_dir() or (folder / CONFIG).exists():
        return None
    files = [path for path in folder.iterdir() if path.suffix in SAFE | PICKLED and path.is_file()]
    if len(files) != 1:
        return None
    (file,) = files
    safe = file.suffix in SAFE
    return FoundModel(folder, UPSCALER, file.stat().st_size if safe else 0, () if safe else (file.name,))


def damage(folder: Path) -> str:
    """What is wrong with the first safetensors file that is not whole; empty when all are. Raises OSError.

    Format: eight bytes with a length, that many bytes of JSON, and the tensors that it places behind them.
    """
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SAFE and path.is_file()):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(len(LFS_MARK))
            if head == LFS_MARK:
                return f"{path.name} is a Git LFS pointer, not the file itself"
            if not _whole(file, size):
                return f"{path.name} is no safetensors file, or cut short ({size} bytes)"
    return ""


def _whole(file: BinaryIO, size: int) -> bool:
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(size - 8, HEADER_BYTES):
        return False
    try:
        header = from_json(file.read(length))
        ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError):
        return False
    return 8 + length + max(ends, default=0) == size


def find_models(home: Path | None) -> list[tuple[str, FoundModel]]:
    """The models below the models' folder with their ids, by id; those that can be read."""
    root = home or models_home()
    found: list[tuple[str, FoundModel]] = []
    for folder in _folders(root, DEPTH):
        try:
            model = look_at(folder)
        except OSError:
            continue
        if model:
            found.append((folder.relative_to(root).as_posix(), model))
        if len(found) == FOUND_MOST:
            break
    return sorted(found, key=lambda each: each[0])


def models_on_disk(settings: OrchestratorSettings) -> tuple[ModelStatus, ...]:
    """The configured models as far as they can be known without a node."""
    return tuple(_status(model) for model in settings.models)


def _status(model: ModelSettings) -> ModelStatus:
    return ModelStatus(
        model=model.model_id,
        warm=model.warm,
        replicas=model.replicas,
        device=model.device,
        memory_bytes=model.memory_bytes,
        queue=model.queue,
        prices={pipeline: dict(offer.price) for pipeline, offer in model.pipelines.items()},
    )


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """Folders below `root`, hidden ones and the insides of models left out."""
    try:
        children = sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return
    for child in children:
        yield child
        if depth > 1 and not (child / INDEX).is_file():
            yield from _folders(child, depth - 1)
