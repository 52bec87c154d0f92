"""Whether a model's folder is whole: what a copy that was cut short lacks, by names, sizes and headers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from reelnet.operating.state_files import read_bounded

INDEX = "model_index.json"
INDEX_BYTES = 1 << 20
SAFE = frozenset({".safetensors"})
SHARDS, SHARDS_BYTES = ".safetensors.index.json", 1 << 26
LFS_MARK = b"version https://git-lfs"
HEADER_BYTES = 100_000_000
"""Most bytes of a safetensors header, as the format's own reader has it."""
SPARED = frozenset({"safety_checker"})
"""A component that a model does without."""
BESIDE = frozenset({"loras", "film"})
"""Folders in a model's folder whose files are no part of it."""
TOKENIZERS = ("Tokenizer", "TokenizerFast")
NO_NETS = (*TOKENIZERS, "Processor", "Scheduler", "FeatureExtractor")
"""How classes end that have no weights."""
VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "vocab.txt"})


def damage(folder: Path) -> str:
    """The first thing that a model's folder lacks; empty when it is whole. Raises OSError."""
    return next(_faults(folder), "")


def _faults(folder: Path) -> Iterator[str]:
    weights = [path for path in sorted(folder.rglob("*.safetensors")) if _is_part(path.relative_to(folder))]
    if (folder / INDEX).is_file():
        one_file = [path.parent for path in weights] == [folder]
        yield from _components(folder, with_nets=not one_file)
    for index in sorted(folder.rglob(f"*{SHARDS}")):
        yield from _shards(index)
    for path in weights:
        yield from _file(path)


def _components(folder: Path, *, with_nets: bool) -> Iterator[str]:
    """Components that the index names and that are not there; with `with_nets`, what their nets lack too."""
    for name, kind in _named(_object(folder / INDEX, INDEX_BYTES) or {}).items():
        part = folder / name
        if name in SPARED:
            continue
        if not part.is_dir() or not any(part.iterdir()):
            yield f"{name} is missing, which {INDEX} names"
        elif kind.endswith(TOKENIZERS):
            yield from _tokenizer(part)
        elif with_nets and not kind.endswith(NO_NETS):
            yield from _net(part)


def _is_part(path: Path) -> bool:
    """Whether a file, by its path in a model's folder, is a part of the model."""
    return path.parts[0] not in BESIDE and not any(part.startswith(".") for part in path.parts)


def _tokenizer(part: Path) -> Iterator[str]:
    """Libraries would take an empty one in silence."""
    if not any(path.name in VOCABULARIES or path.suffix == ".model" for path in part.iterdir()):
        yield f"{part.name} has no vocabulary"


def _net(part: Path) -> Iterator[str]:
    """A net has a configuration and weights; a component of another kind has neither."""
    configured, weighed = (part / "config.json").is_file(), any(path.suffix in SAFE for path in part.iterdir())
    if configured and not weighed:
        yield f"{part.name} has no safetensors weights"
    if weighed and not configured:
        yield f"{part.name} has no config.json"


def _named(index: Mapping[str, Any]) -> dict[str, str]:
    """The components of an index with their classes: pairs of a library and a class; null for one that is left out."""
    pairs = {name: value for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return {name: kind for name, (_, kind) in pairs.items() if isinstance(kind, str) and "/" not in name}


def _shards(index: Path) -> Iterator[str]:
    """Files that a weight's index names and that are not there."""
    shards = (_object(index, SHARDS_BYTES) or {}).get("weight_map")
    if not isinstance(shards, dict):
        yield f"{index.name} names no weights, or is cut short"
        return
    for name in sorted(set(map(str, shards.values()))):
        if not (index.parent / name).is_file():
            yield f"{name} is missing, which {index.name} names"


def _file(path: Path) -> Iterator[str]:
    """Format: eight bytes with a length, that many bytes of JSON, and the tensors that it places behind them."""
    if not path.is_file():
        if path.is_symlink():
            yield f"{path.name} is a link to nothing"
        return
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if file.read(len(LFS_MARK)) == LFS_MARK:
            yield f"{path.name} is a Git LFS pointer, not the file itself"
        elif not _whole(file, size):
            yield f"{path.name} is no safetensors file, or cut short ({size} bytes)"


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


def _object(path: Path, most_bytes: int) -> Mapping[str, Any] | None:
    """What a JSON file holds; None where it is no object, or longer than is read."""
    try:
        found = from_json(read_bounded(path, most_bytes))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
