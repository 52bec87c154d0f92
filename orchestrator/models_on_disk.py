"""What lies in model folders, by their files' names and sizes alone: nothing is read that could be large."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.settings import ModelSettings, OrchestratorSettings, SyntheticOptions
from orchestrator.status import ModelStatus
from reelnet.home import model_dir, models_home

INDEX = "model_index.json"
INDEX_BYTES = 1 << 20
SAFE, PICKLED = frozenset({".safetensors"}), frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
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
    """What is in a model's folder; None when it is none in diffusers layout. Raises OSError."""
    index = folder / INDEX
    if not index.is_file() or index.stat().st_size > INDEX_BYTES:
        return None
    try:
        named = json.loads(index.read_bytes())
    except ValueError:
        return None
    files = [path for path in folder.rglob("*") if path.is_file()]
    return FoundModel(
        folder,
        str(named.get("_class_name", "")) if isinstance(named, dict) else "",
        sum(path.stat().st_size for path in files if path.suffix in SAFE),
        tuple(str(path.relative_to(folder)) for path in files if path.suffix in PICKLED),
    )


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
    return tuple(_status(model, settings) for model in settings.models)


def _status(model: ModelSettings, settings: OrchestratorSettings) -> ModelStatus:
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
