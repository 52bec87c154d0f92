"""What a node has learned about its models, kept from one start to the next: what they serve, need, and take to load.

A model on demand can be offered before it is loaded, because an earlier load has said what it is. Facts hold as long
as the files that they were learned from are as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import structlog
from pydantic import Field, TypeAdapter

from orchestrator.runner_answers import ByteCount, Describable, RunnerInfo, Text, read_json
from orchestrator.settings import ModelSettings, SyntheticOptions
from reelnet.operating.state_files import put_aside, read_bounded

GUESSED_OVERHEAD_BYTES = 2**30
GUESSED_FACTOR = 1.3
"""A model that was never loaded is taken to need so much more than its weights: activations, and the runtime."""
GUESSED_LOAD_S = 10.0
GUESSED_BYTES_PER_S = 400 * 2**20
WEIGHT_OF_NEWEST = 0.5
BOOK_BYTES = 16 * 2**20
MAX_LOAD_S = 86_400.0
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """One model: what its runner said, the memory that it took at most, bytes, and how long a load takes, seconds."""

    source: Text
    info: Describable | None = None
    need_bytes: ByteCount | None = None
    load_s: Annotated[float, Field(strict=True, ge=0, le=MAX_LOAD_S, allow_inf_nan=False)] | None = None


_BOOK = TypeAdapter(dict[str, ModelFacts])


class FactBook:
    """The facts of all models, by id, in one JSON file.

    A file that is not such a book, whole and within all bounds, is put aside, and an empty book begins.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts = _read(path)

    def of(self, model_id: str, source: str) -> ModelFacts:
        """What is known of a model, if its files are still those of `source`."""
        known = self._facts.get(model_id)
        return known if known and known.source == source else ModelFacts(source)

    def learn_info(self, model_id: str, source: str, info: RunnerInfo) -> None:
        """A runner has the model loaded, and says what it is."""
        self._facts[model_id] = replace(self.of(model_id, source), info=info)

    def learn_need(self, model_id: str, source: str, need_bytes: int) -> None:
        """A runner takes that much memory: the most that was seen counts."""
        before = self.of(model_id, source)
        self._facts[model_id] = replace(before, need_bytes=max(need_bytes, before.need_bytes or 0))

    def learn_load(self, model_id: str, source: str, load_s: float) -> None:
        """A load took so long."""
        before = self.of(model_id, source)
        known = load_s if before.load_s is None else before.load_s
        self._facts[model_id] = replace(before, load_s=known + WEIGHT_OF_NEWEST * (load_s - known))

    def text(self) -> str:
        """The book as it is written."""
        return json.dumps({name: asdict(facts) for name, facts in self._facts.items()}, indent=1)

    def write(self, text: str) -> None:
        """Writes the book, whole or not at all. A disk that is full costs the facts, nothing else."""
        beside = self._path.with_suffix(".new")
        with suppress(OSError):
            beside.write_text(text)
            beside.replace(self._path)


def source_of(model: ModelSettings, folder: Path | None) -> str:
    """What facts are learned from: the model's files, by name, size and time, and all that changes what they mean."""
    digest = hashlib.sha256(repr((model.backend, model.flags, sorted(model.pipelines))).encode())
    for path in sorted(folder.rglob("*")) if folder else ():
        with suppress(OSError):
            stat = path.stat()
            digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def weights_bytes(folder: Path | None) -> int:
    """Size of a model's weight files; 0 without a folder."""
    if folder is None:
        return 0
    return sum(_size(Path(at) / name) for at, _, names in os.walk(folder) for name in names if name.endswith(WEIGHTS))


def need_bytes(model: ModelSettings, facts: ModelFacts, weights: int) -> tuple[int, bool]:
    """Memory that a runner of the model needs, and whether that is more than a guess.

    What the operator says comes first, then what was measured.
    """
    if model.memory_bytes is not None:
        return model.memory_bytes, True
    if facts.need_bytes is not None:
        return facts.need_bytes, True
    if isinstance(model.backend, SyntheticOptions):
        return 0, True
    return int(weights * GUESSED_FACTOR) + GUESSED_OVERHEAD_BYTES, False


def load_estimate_s(facts: ModelFacts, weights: int) -> float:
    """How long a load takes, as measured, else guessed from the weights."""
    return facts.load_s if facts.load_s is not None else GUESSED_LOAD_S + weights / GUESSED_BYTES_PER_S


def _read(path: Path) -> dict[str, ModelFacts]:
    try:
        return read_json(_BOOK, read_bounded(path, BOOK_BYTES), path.name)
    except FileNotFoundError:
        return {}
    except OSError as error:
        log.warning("what was known of the models cannot be read", file=str(path), reason=error.strerror)
        return {}
    except ValueError as error:
        put_aside(path, str(error))
        return {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
