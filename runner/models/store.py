"""The folder of models: names and places, drafts that become models in one step, and what lies there."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reelnet.errors import ConfigError
from reelnet.jobs import Licence
from runner.backend import SetupError
from runner.models.digest import BESIDE, CARD, INDEX, WEIGHTS, class_of, model_files, read_json
from runner.models.manifest import Manifest, read_manifest

DRAFTS = ".pulling"
"""Hidden folder below the models' home that holds unfinished models."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class StoreError(Exception):
    """A model cannot be stored, checked or removed; the text tells the operator why and what to do."""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model on disk. `size` in bytes; `manifest` is None for a folder that nobody pulled or imported.

    `fault` says what is wrong with its reelnet.json; empty for nothing.
    """

    id: str
    folder: Path
    class_name: str
    size: int
    licence: Licence
    digest: str | None
    manifest: Manifest | None
    fault: str = ""


class ModelStore:
    """The models below one folder, each in `ORG/NAME` or `NAME`."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def folder(self, model: str) -> Path:
        """Where a model is or would be. Raises ConfigError for what is no id."""
        return self.home / checked_id(model)

    def has(self, model: str) -> bool:
        """Whether a folder of that id is there."""
        return self.folder(model).is_dir()

    def models(self) -> Iterator[StoredModel]:
        """All models, sorted by id."""
        for folder in sorted(self._folders()):
            yield self._stored(folder)

    def get(self, model: str) -> StoredModel:
        """The model of that id. Raises StoreError when there is none."""
        folder = self.folder(model)
        if not folder.is_dir():
            raise StoreError(f"{model}: there is no such model in {self.home}; see `runner models list`")
        return self._stored(folder)

    @contextlib.contextmanager
    def draft(self, model: str, state: str) -> Iterator[Path]:
        """A folder for the making of a model, for this process alone; it stays when the making fails.

        The same `state` (a revision, say) finds the same folder again. Raises StoreError while another process has it.
        """
        name = checked_id(model).replace("/", "--")
        drafts = self.home / DRAFTS
        drafts.mkdir(parents=True, exist_ok=True)
        with (drafts / f"{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StoreError(f"{model}: another command is storing it; wait for that one") from None
            draft = drafts / f"{name}@{state}"
            for stale in drafts.glob(f"{name}@*"):
                if stale != draft:
                    shutil.rmtree(stale)
            draft.mkdir(exist_ok=True)
            yield draft

    def install(self, draft: Path, target: Path) -> Path:
        """Makes a finished draft the model in `target`. Raises OSError.

        One that was there before gives way, but for what lies beside it: LoRAs, FILM.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in (draft, *draft.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        with tempfile.TemporaryDirectory(dir=self.home / DRAFTS, prefix=".old-") as old:
            if target.exists():
                target.rename(Path(old) / "model")
                _take_along(Path(old) / "model", draft)
            draft.rename(target)
        return target

    def remove(self, model: str) -> None:
        """Deletes a model and what is left of its pulls. Raises StoreError, OSError."""
        folder = self.get(model).folder
        drafts = self.home / DRAFTS
        drafts.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=drafts, prefix=".old-") as old:
            folder.rename(Path(old) / "model")  # nobody finds half a model
        for stale in drafts.glob(f"{model.replace('/', '--')}@*"):
            shutil.rmtree(stale)
        with contextlib.suppress(OSError):  # other models are in it
            if folder.parent != self.home:
                folder.parent.rmdir()

    def _folders(self) -> Iterator[Path]:
        for first in _folders_in(self.home):
            if _is_model(first):
                yield first
            else:
                yield from (second for second in _folders_in(first) if _is_model(second))

    def _stored(self, folder: Path) -> StoredModel:
        manifest, card, fault = _told(folder)
        stated = card.get("digest")
        return StoredModel(
            id=folder.relative_to(self.home).as_posix(),
            folder=folder,
            class_name=class_of(folder),
            size=sum(path.stat().st_size for path in model_files(folder)),
            licence=manifest.licence if manifest else _licence(card),
            digest=manifest.digest if manifest else stated if isinstance(stated, str) else None,
            manifest=manifest,
            fault=fault,
        )


def checked_id(model: str) -> str:
    """`model`, when it is ORG/NAME or NAME. Raises ConfigError, also for what would lead out of the folder."""
    parts = model.split("/")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) and ".." not in part for part in parts):
        raise ConfigError(f"{model!r} is no model id; expected ORG/NAME of letters, digits and . _ -")
    return model


def _folders_in(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _take_along(old: Path, new: Path) -> None:
    """Moves what lies beside a model and is no part of it."""
    for name in BESIDE:
        if (old / name).is_dir() and not (new / name).exists():
            (old / name).rename(new / name)


def _is_model(folder: Path) -> bool:
    return any(path.name in (INDEX, CARD) or path.suffix in WEIGHTS for path in folder.iterdir())


def _told(folder: Path) -> tuple[Manifest | None, dict[str, object], str]:
    """What a folder's reelnet.json says, and what is wrong with it."""
    if not (folder / CARD).exists():
        return None, {}, ""
    try:
        return read_manifest(folder), read_json(folder / CARD), ""
    except SetupError as error:
        return None, {}, str(error)


def _licence(card: dict[str, object]) -> Licence:
    stated = card.get("licence")
    unknown = Licence()
    if not isinstance(stated, dict):
        return unknown
    return Licence(str(stated.get("id", unknown.id)), str(stated.get("commercial", unknown.commercial)))
