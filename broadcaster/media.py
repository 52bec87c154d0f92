"""Where results are kept: files with unguessable names in one private folder, for a time and up to a size."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from reelnet.errors import NodeError, UserError, printable
from reelnet.inspection import EXTENSIONS
from reelnet.settings import Section

MAX_OUTPUT_BYTES = 512 * 2**20
BATCH_BYTES = 2**20
"""So much is held in memory before a thread writes it: a smaller output costs one hop to a thread, not one a chunk."""
_INCOMING = "incoming"
_TOKEN_BYTES = 16
_MEDIA_TYPES = {extension: media_type for media_type, extension in EXTENSIONS.items()}
_NAME = re.compile(rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.({'|'.join(_MEDIA_TYPES)})", re.ASCII)


class MediaSettings(Section):
    """How long and how much media is kept."""

    ttl_s: float = Field(86_400.0, gt=0, description="Seconds after which a result is deleted.")
    max_bytes: int = Field(10 * 2**30, gt=0, description="Bytes of all results; beyond it the oldest are deleted.")


@dataclass(frozen=True, slots=True)
class StoredMedia:
    """A kept result. `name` is its file's, unguessable (128 random bits); `sha256` is hex."""

    name: str
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep deleted, and the bytes that are left."""

    files: int
    bytes: int
    kept_bytes: int


class _File(NamedTuple):
    mtime_s: float
    size: int
    path: str


class Incoming:
    """An output that is being received. Not for concurrent use: one task writes and commits."""

    def __init__(self, folder: Path, media_type: str, label: str, max_bytes: int) -> None:
        token = secrets.token_hex(_TOKEN_BYTES)
        self.path = folder / _INCOMING / token
        """The temporary file (mode 0600). It holds everything received after `flush`, for a check before `commit`."""
        self._kept = folder / f"{token}.{EXTENSIONS[media_type]}"
        self._media_type = media_type
        self._label = label
        self._max_bytes = max_bytes
        self._sha256 = hashlib.sha256()
        self._batch: list[bytes] = []
        self._batched = 0
        self._on_disk = False
        self._closed = False
        self._committed = False
        self.size = 0
        """Bytes received so far."""

    async def write(self, chunk: bytes) -> None:
        """Takes the next bytes. Raises NodeError `bytes` when there are more than allowed."""
        self.size += len(chunk)
        if self.size > self._max_bytes:
            raise NodeError(f"{self._label} has more than {self._max_bytes} bytes", code="bytes")
        self._batch.append(chunk)
        self._batched += len(chunk)
        if self._batched >= BATCH_BYTES:
            await self.flush()

    async def flush(self) -> str:
        """Writes what is held in memory; the sha256 (hex) of everything so far."""
        if self._batch or not self._on_disk:
            batch, self._batch, self._batched = self._batch, [], 0
            await asyncio.to_thread(self._append, batch)
            self._on_disk = True
        return self._sha256.hexdigest()

    async def commit(self) -> StoredMedia:
        """Keeps the output under its name. Raises ValueError outside the `receive` scope or a second time."""
        sha256 = await self.flush()
        if self._closed:
            raise ValueError("the output is committed or dropped already")
        await asyncio.to_thread(self._keep)
        self._committed = self._closed = True
        return StoredMedia(self._kept.name, self._media_type, self.size, sha256)

    async def close(self) -> None:
        """Removes the file, unless it is committed; also when a thread is only about to write or to keep it."""
        self._closed = True
        if not self._committed:
            await asyncio.to_thread(self._remove)

    # In a thread. A cancelled caller leaves it running, so each step cleans up behind a `close` that came first.

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._kept.unlink(missing_ok=True)

    def _keep(self) -> None:
        os.rename(self.path, self._kept)
        if self._closed:
            self._remove()

    def _append(self, batch: list[bytes]) -> None:
        if self._closed:
            return
        with open(self.path, "ab", opener=_private) as file:
            for chunk in batch:
                self._sha256.update(chunk)
                file.write(chunk)
        if self._closed:
            self._remove()


class MediaStore:
    """Media in a local folder, which is its own: `start` empties what an earlier run left unfinished in it."""

    def __init__(self, folder: Path, settings: MediaSettings | None = None) -> None:
        self._folder = folder
        self._settings = settings or MediaSettings()

    async def start(self) -> None:
        """Makes the folders (mode 0700) and removes leftovers of outputs that were not received whole."""
        await asyncio.to_thread(self._prepare)

    @contextlib.asynccontextmanager
    async def receive(
        self, job_id: str, index: int, media_type: str, *, max_bytes: int = MAX_OUTPUT_BYTES
    ) -> AsyncIterator[Incoming]:
        """A place for output `index` of a job; what is not committed when the scope ends is gone.

        Raises NodeError `media_type` for a type that is not kept.
        """
        if media_type not in EXTENSIONS:
            raise NodeError(f"{printable(media_type, 64)} is no media type of an output", code="media_type")
        incoming = Incoming(self._folder, media_type, f"output {index} of job {job_id}", max_bytes)
        try:
            yield incoming
        finally:
            await incoming.close()

    def open_path(self, name: str) -> tuple[Path, str]:
        """The path and media type of a kept file. Raises UserError, HTTP status 404, for any other name."""
        match = _NAME.fullmatch(name)
        path = self._folder / name  # one look at a local folder: no hop to a thread for that
        if match is None or not path.is_file():
            raise UserError("there is no such media; it may have expired", code="not_found", http_status=404)
        return path, _MEDIA_TYPES[match[1]]

    async def sweep(self, now_s: float) -> Swept:
        """Deletes what is older than `ttl_s` at Unix time `now_s`, then the oldest until `max_bytes` hold the rest."""
        return await asyncio.to_thread(self._sweep, now_s)

    def _prepare(self) -> None:
        incoming = self._folder / _INCOMING
        shutil.rmtree(incoming, ignore_errors=True)
        for folder in (self._folder, incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)

    def _sweep(self, now_s: float) -> Swept:
        files = sorted(self._files())
        total = kept = sum(file.size for file in files)
        deleted = 0
        for file in files:
            if file.mtime_s >= now_s - self._settings.ttl_s and kept <= self._settings.max_bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.path)
            deleted += 1
            kept -= file.size
        return Swept(deleted, total - kept, kept)

    def _files(self) -> list[_File]:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        found.append(_File(status.st_mtime, status.st_size, entry.path))
        return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
