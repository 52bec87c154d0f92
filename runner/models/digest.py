"""What a model folder consists of, and the digest that identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from reelnet.jobs import Licence
from reelnet.model_classes import UPSCALER
from runner.backend import SetupError
from runner.models.layout import Layout, layout_of

INDEX = "model_index.json"
CARD = "reelnet.json"
"""Optional facts about a model: {"licence": {"id": SPDX, "commercial": yes|no|conditional|unknown}, "note": text}."""
WEIGHTS = frozenset({".safetensors"})
CONFIGS = frozenset({".json", ".txt", ".model"})
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "vocab.txt"})
LORAS = "loras"
"""A folder in a model's folder, for LoRAs that lie with it."""
FILM = "film"
"""A folder in a video model's folder, for the FILM network that lies with it."""
BESIDE = (LORAS, FILM)
"""What lies with a model and is no part of it: it has digests of its own."""
NEVER_LOADED = frozenset({"safety_checker"})
"""Components that a node may leave out of its download."""
_BLOCK = 1 << 20
_HEADER_LIMIT = 100_000_000
"""Most bytes of a safetensors header, as the format's own reader has it."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model folder after the first look: its class by `model_index.json`, its files, its licence, its weights."""

    folder: Path
    class_name: str
    licence: Licence
    paths: tuple[Path, ...]
    layout: Layout = field(default_factory=lambda: Layout({}))

    def digest(self) -> str:
        """sha256 (hex) over one line `path NUL size NUL sha256` per file, sorted by path."""
        return digest_of(
            (path.relative_to(self.folder).as_posix(), path.stat().st_size, sha256_of(path)) for path in self.paths
        )


def digest_of(files: Iterable[tuple[str, int, str]]) -> str:
    """The digest of files that are known by path, size and sha256, in the order of their paths."""
    total = hashlib.sha256()
    for name, size, sha256 in files:
        total.update(f"{name}\0{size}\0{sha256}\n".encode())
    return total.hexdigest()


def survey(folder: Path) -> ModelFiles:
    """The model in `folder`. Raises SetupError when it is missing, has pickled weights only, or is not whole."""
    if not folder.is_dir():
        raise SetupError(f"{folder}: there is no such model folder; download the model or name another")
    paths = model_files(folder)
    weights = [path for path in paths if path.suffix in WEIGHTS]
    if not weights:
        raise SetupError(_without_weights(folder))
    index = _index(folder, weights)
    for path in weights:
        check_whole(path)
    for name in _components(index):
        _check_component(folder / name)
    nets = {name: kind for name, kind in index.items() if name not in NEVER_LOADED}
    return ModelFiles(
        folder, str(index.get("_class_name", "")), _licence(folder), paths, layout_of(folder, nets, paths)
    )


def _index(folder: Path, weights: list[Path]) -> dict[str, object]:
    """The folder's index; a folder without one that holds one file of weights is an upscaler's."""
    if not (folder / INDEX).exists() and [path.parent for path in weights] == [folder]:
        return {"_class_name": UPSCALER}
    return read_json(folder / INDEX)


def check_whole(path: Path) -> None:
    """Raises SetupError when a safetensors file is cut short or its header is damaged."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= min(size, _HEADER_LIMIT) else {}
        end = max(int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise SetupError(f"{path}: not a safetensors file, or damaged; download it again") from None
    if 8 + length + end != size:
        raise SetupError(f"{path}: {size} bytes instead of {8 + length + end}; download it again")


def read_json(path: Path) -> dict[str, object]:
    """The JSON object in a file. Raises SetupError."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SetupError(f"{path}: missing; a model folder in diffusers layout has it") from None
    except (OSError, ValueError) as error:
        raise SetupError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise SetupError(f"{path}: expected a JSON object")
    return content


def class_of(folder: Path) -> str:
    """The class that a folder's index names, empty for none."""
    try:
        return str(read_json(folder / INDEX).get("_class_name", ""))
    except SetupError:
        return ""


def component_names(index: dict[str, object]) -> list[str]:
    """The folders that `model_index.json` names: each entry `[library, class]` is one."""
    return [name for name, kind in index.items() if isinstance(kind, list) and all(kind)]


def _components(index: dict[str, object]) -> Iterator[str]:
    yield from (name for name in component_names(index) if name not in NEVER_LOADED)


def _check_component(folder: Path) -> None:
    """Raises SetupError for a part that libraries would replace by an empty one in silence."""
    if not folder.is_dir():
        raise SetupError(f"{folder}: missing; download the model again")
    if folder.name.startswith("tokenizer") and not any(_has_vocabulary(path) for path in folder.iterdir()):
        raise SetupError(f"{folder}: has no vocabulary; download the model again")


def _has_vocabulary(path: Path) -> bool:
    return path.name in VOCABULARIES or path.suffix == ".model"


def model_files(folder: Path) -> tuple[Path, ...]:
    """The files that a model's digest is made of, sorted by their path below `folder`."""
    return tuple(sorted(_model_files(folder), key=lambda path: path.relative_to(folder).as_posix()))


def _model_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        apart = parts[0] in BESIDE or any(part.startswith(".") for part in parts)
        if path.suffix in WEIGHTS | CONFIGS and path.name != CARD and not apart and path.is_file():
            yield path


def _without_weights(folder: Path) -> str:
    pickles = [path for path in folder.rglob("*") if path.suffix in PICKLES]
    if pickles:
        name = pickles[0].relative_to(folder)
        return f"{folder}: its weights are pickles ({name}), which can run code; only safetensors are read: convert it"
    return f"{folder}: has no safetensors weights"


def _licence(folder: Path) -> Licence:
    if not (folder / CARD).exists():
        return Licence()
    stated = read_json(folder / CARD).get("licence", {})
    if not isinstance(stated, dict):
        raise SetupError(f'{folder / CARD}: licence: expected {{"id": …, "commercial": …}}')
    unknown = Licence()
    return Licence(str(stated.get("id", unknown.id)), str(stated.get("commercial", unknown.commercial)))


def sha256_of(path: Path) -> str:
    """sha256 of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
