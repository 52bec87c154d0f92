"""Files from a hub onto the disk: resumed where they broke off, and believed by their digest alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.models.digest import WEIGHTS, sha256_of
from runner.models.hub import Hub, InterruptedTransferError, RemoteFile, RemoteModel
from runner.models.manifest import FileFacts, sync
from runner.models.meter import Meter
from runner.models.store import StoreError

PART = ".part"
_FIRST_WAIT_S, _MOST_WAIT_S = 1.0, 60.0
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a transfer is tried again that brings nothing; one that brings something starts the count anew."""

    retries: int = 5
    sleep: Callable[[float], None] = time.sleep


class Downloads:
    """Fetches files of one model into a draft folder."""

    def __init__(self, hub: Hub, model: RemoteModel, draft: Path, meter: Meter, patience: Patience) -> None:
        self._hub = hub
        self._model = model
        self._draft = draft
        self._meter = meter
        self._patience = patience
        self._done: dict[str, FileFacts] = {}

    def there(self, file: RemoteFile) -> int:
        """Bytes of a file that an earlier try has left, at most its size."""
        for path in (self._draft / file.path, self._part(file)):
            if path.is_file():
                return min(path.stat().st_size, file.size)
        return 0

    def fetch(self, file: RemoteFile) -> FileFacts:
        """Brings one file to the disk, whole and with the stated digest; a second time it is there already.

        Raises StoreError when its digest is wrong or the hub does not deliver, OSError when the disk does not take it.
        """
        if file.path not in self._done:
            self._done[file.path] = self._fetch(file)
        return self._done[file.path]

    def _fetch(self, file: RemoteFile) -> FileFacts:
        target, part = self._draft / file.path, self._part(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._meter.begin(file.path)
        self._meter.advance(self.there(file))
        if target.is_file():
            target.rename(part)  # an earlier try has fetched it; it is checked again
        resumed = part.is_file()
        self._complete(file, part)
        sha256 = _matching(part, file)
        if sha256 is None and resumed:
            self._meter.note(f"{file.path}: what an earlier try left is damaged; fetching it anew")
            self._restart(part)
            self._complete(file, part)
            sha256 = _matching(part, file)
        if sha256 is None:
            part.unlink()
            raise StoreError(
                f"{file.path}: its digest is not the one that the hub states; pull again, or ask its owner"
            )
        sync(part)
        part.rename(target)
        return FileFacts(file.size, sha256)

    def _complete(self, file: RemoteFile, part: Path) -> None:
        """Appends until the file has its size."""
        part.touch()
        if part.stat().st_size > file.size:
            self._restart(part)
        tries = 0
        while (before := part.stat().st_size) < file.size:
            try:
                self._append(file, part)
            except InterruptedTransferError as error:
                tries = 0 if part.stat().st_size > before else tries + 1
                if tries > self._patience.retries:
                    raise StoreError(f"{error}; what is there is kept: pull again to go on") from None
                wait_s = error.retry_after_s or _FIRST_WAIT_S * 2 ** max(0, tries - 1)
                self._meter.note(f"{error}; going on at {part.stat().st_size} of {file.size} bytes")
                self._patience.sleep(min(wait_s, _MOST_WAIT_S))

    def _append(self, file: RemoteFile, part: Path) -> None:
        with self._hub.open(self._model, file, part.stat().st_size) as (start, blocks):
            if start == 0:
                self._restart(part)
            with part.open("ab") as out:
                left = file.size - out.tell()
                for block in blocks:
                    out.write(block[:left])
                    self._meter.advance(min(len(block), left))
                    left -= len(block)
                    if left < 0:
                        raise StoreError(f"{file.path}: the hub sends more bytes than it states")
        if part.stat().st_size < file.size:
            raise InterruptedTransferError(f"{file.path}: the transfer ended early")

    def _restart(self, part: Path) -> None:
        self._meter.advance(-part.stat().st_size)
        part.write_bytes(b"")

    def _part(self, file: RemoteFile) -> Path:
        return self._draft / (file.path + PART)


def check_stated(file: RemoteFile) -> None:
    """Raises StoreError for a file that could not be checked: weights need a sha256, others at least git's sha1."""
    if not (file.sha256 or (file.blob and Path(file.path).suffix not in WEIGHTS)):
        raise StoreError(f"{file.path}: the hub states no digest of it, so it cannot be checked; nothing is stored")


def _matching(path: Path, file: RemoteFile) -> str | None:
    """The sha256 of `path`, when its content has the digest that was stated."""
    sha256 = sha256_of(path)
    if file.sha256:
        return sha256 if sha256 == file.sha256 else None
    return sha256 if _git_blob(path) == file.blob else None


def _git_blob(path: Path) -> str:
    """git's name of a content: sha1 over `blob SIZE NUL` and the content. It is stated for small files only."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
