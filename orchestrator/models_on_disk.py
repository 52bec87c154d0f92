"""What lies in model folders, by their files' names and sizes alone: nothing is read that could be large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic_core import from_json

from orchestrator.model_damage import INDEX, INDEX_BYTES, SAFE, damage
from orchestrator.settings import ModelSettings, OrchestratorSettings, SyntheticOptions
from orchestrator.status import ModelStatus
from reelnet.errors import printable
from reelnet.home import model_dir, models_home
from reelnet.model_classes import UPSCALER, pipelines_by, pipelines_of
from reelnet.operating.state_files import read_bounded

CONFIG = "config.json"
PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
FAULT_CHARS = 1000
DEPTH, FOUND_MOST = 3, 200
"""How many folders below the models' folder are looked into; and how many models are looked for at most."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model's folder: the class that it names, its safetensors files' bytes, names of pickled files.

    `pipelines` are those that a runner is known to load the class for.
    """

    folder: Path
    class_name: str
    weight_bytes: int
    pickles: tuple[str, ...]
    pipelines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a folder holds, and the fault that keeps a node from serving it, with what to do about it."""

    found: FoundModel | None = None
    fault: str = ""
    mend: str = ""


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
    named = named if isinstance(named, dict) else {}
    files = [path for path in folder.rglob("*") if path.is_file()]
    return FoundModel(
        folder,
        str(named.get("_class_name", "")),
        sum(path.stat().st_size for path in files if path.suffix in SAFE),
        tuple(str(path.relative_to(folder)) for path in files if path.suffix in PICKLED),
        pipelines_by(named),
    )


def _checkpoint(folder: Path) -> FoundModel | None:
    """A folder that holds one file of weights and no configuration, as upscalers are published."""
    if not folder.is_dir() or (folder / CONFIG).exists():
        return None
    files = [path for path in folder.iterdir() if path.suffix in SAFE | PICKLED and path.is_file()]
    if len(files) != 1:
        return None
    (file,) = files
    size, pickles = (file.stat().st_size, ()) if file.suffix in SAFE else (0, (file.name,))
    return FoundModel(folder, UPSCALER, size, pickles, pipelines_of(UPSCALER))


def judge(folder: Path) -> Judgement:
    """What lies in a model's folder, and what keeps a node from serving it, if anything does, as plain text."""
    judged = _judged(folder)
    return replace(judged, fault=printable(judged.fault, FAULT_CHARS))


def _judged(folder: Path) -> Judgement:
    try:
        found = look_at(folder)
        if found is None:
            return _no_model(folder)
        if not found.weight_bytes:
            return _without_weights(found)
        broken = damage(folder)
    except OSError as error:
        return Judgement(
            None, f"{folder} cannot be read: {error.strerror}", "let the node's user read it: chmod -R a+rX"
        )
    return Judgement(found, f"{folder}: {broken}", "copy or download the model whole") if broken else Judgement(found)


def fault_of(model: ModelSettings, settings: OrchestratorSettings) -> str:
    """What keeps a node from serving a model, and what to do, in a sentence; empty when nothing does."""
    folder = folder_of(model, settings)
    judged = judge(folder) if folder else Judgement()
    return f"{judged.fault}; {judged.mend}" if judged.fault else ""


def _no_model(folder: Path) -> Judgement:
    """Raises OSError for a folder that cannot be looked into."""
    mend = "put the model there, set `models_home`, or make tiny ones to try: runner models make-tiny DIR"
    if not folder.is_dir():
        return Judgement(None, f"{folder}: there is no such folder", mend)
    next(folder.iterdir(), None)
    return Judgement(None, f"{folder}: no model in diffusers layout ({INDEX}), nor one file of weights", mend)


def _without_weights(found: FoundModel) -> Judgement:
    why = f"its weights are pickled ({found.pickles[0]}), which can run code" if found.pickles else "it has no weights"
    return Judgement(found, f"{found.folder}: {why}", "download or convert it to safetensors")


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
    return tuple(_status(model, fault_of(model, settings)) for model in settings.models)


def _status(model: ModelSettings, fault: str) -> ModelStatus:
    return ModelStatus(
        model=model.model_id,
        warm=model.warm,
        replicas=model.replicas,
        device=model.device,
        memory_bytes=model.memory_bytes,
        queue=model.queue,
        prices={pipeline: dict(offer.price) for pipeline, offer in model.pipelines.items()},
        problem=fault,
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
