"""Where results are kept: files with unguessable names in one private folder, for a time and up to a size.

A result that fits into memory is served from there at once; its file is written behind, with others, within moments,
as the journal's rows are. A store that is not `behind` writes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog
from pydantic import Field

from broadcaster.local_failure import LocalError
from reelnet.errors import NodeError, UserError, printable
from reelnet.inspection import EXTENSIONS
from reelnet.settings import Section

MAX_OUTPUT_BYTES = 512 * 2**20
BATCH_BYTES = 2**20
"""So much of an output is held in memory; a larger one goes to its file in pieces of this size."""
FLUSH_S = 0.02
RETRY_S = 1.0
PROBE_BYTES = 4096
log = structlog.get_logger()
_INCOMING = "incoming"
_TOKEN_BYTES = 16
_MEDIA_TYPES = {extension: media_type for media_type, extension in EXTENSIONS.items()}
_NAME = re.compile(rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.({'|'.join(_MEDIA_TYPES)})", re.ASCII)


class MediaSettings(Section):
    """How long and how much media is kept."""

    folder: Path | None = Field(
        None, description="Folder of the results; instances may share one; absent: `media` in the state folder."
    )
    ttl_s: float = Field(86_400.0, gt=0, description="Seconds after which a result is deleted.")
    max_bytes: int = Field(10 * 2**30, gt=0, description="Bytes of all results; beyond it the oldest are deleted.")
    incoming_bytes: int = Field(
        8 * 2**30, gt=0, description="Bytes of outputs that are being received, of all jobs; more end their attempt."
    )
    memory_bytes: int = Field(64 * 2**20, ge=0, description="Bytes of small results that are kept in memory too.")
    unwritten_bytes: int = Field(64 * 2**20, ge=0, description="Bytes of results that may wait to be written.")


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

    def __init__(self, store: MediaStore, media_type: str, label: str, max_bytes: int) -> None:
        self._token = os.urandom(_TOKEN_BYTES).hex()
        self._name = f"{self._token}.{EXTENSIONS[media_type]}"
        self._store = store
        self._media_type = media_type
        self._label = label
        self._max_bytes = max_bytes
        self._sha256 = hashlib.sha256()
        self._batch: list[bytes] = []
        self._batched = 0
        self._on_disk = False
        self._closed = False
        self._committed = self._given_back = False
        self.size = 0
        """Bytes received so far."""

    @property
    def sha256(self) -> str:
        """The digest (hex) of the bytes received so far."""
        return self._sha256.hexdigest()

    @property
    def _path(self) -> Path:
        return self._store.incoming / self._token

    @property
    def _kept(self) -> Path:
        return self._store.folder / self._name

    async def write(self, chunk: bytes) -> None:
        """Takes the next bytes. Raises NodeError `bytes` when there are more than allowed, LocalError without room."""
        if self.size + len(chunk) > self._max_bytes:
            raise NodeError(f"{self._label} has more than {self._max_bytes} bytes", code="bytes")
        self._store.take(len(chunk))
        self.size += len(chunk)
        self._sha256.update(chunk)
        self._batch.append(chunk)
        self._batched += len(chunk)
        if self._batched >= BATCH_BYTES:
            await self._flush()

    async def content(self) -> Path | bytes:
        """What was received, for a check before `commit`: its bytes, or a temporary file (mode 0600).

        Raises LocalError where the disk refuses it.
        """
        if not self._on_disk:
            return self._joined()
        await self._flush()
        return self._path

    async def commit(self) -> StoredMedia:
        """Keeps the output under its name. Raises LocalError where the disk refuses it.

        Raises ValueError outside the `receive` scope or a second time.
        """
        if self._closed:
            raise ValueError("the output is committed or dropped already")
        if self._on_disk:
            await self._flush()
            with self._store.writing():
                await asyncio.to_thread(self._keep)
        else:
            await self._store.keep(self._name, self._joined())
        self._committed = self._closed = True
        return StoredMedia(self._name, self._media_type, self.size, self.sha256)

    async def close(self) -> None:
        """Removes the file, unless it is committed; also when a thread is only about to write or to keep it."""
        if not self._given_back:
            self._given_back = True
            self._store.give(self.size)
        self._closed = True
        if self._on_disk and not self._committed:
            await asyncio.to_thread(self._remove)

    async def _flush(self) -> None:
        batch, self._batch, self._batched = self._batch, [], 0
        self._on_disk = True
        with self._store.writing():
            await asyncio.to_thread(self._append, batch)

    def _joined(self) -> bytes:
        self._batch = [b"".join(self._batch)]
        return self._batch[0]

    # In a thread. A cancelled caller leaves it running, so each step cleans up behind a `close` that came first.

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._kept.unlink(missing_ok=True)

    def _keep(self) -> None:
        os.rename(self._path, self._kept)
        if self._closed:
            self._remove()

    def _append(self, batch: list[bytes]) -> None:
        if self._closed:
            return
        with open(self._path, "ab", opener=_private) as file:
            file.writelines(batch)
        if self._closed:
            self._remove()


class MediaStore:
    """Media in a local folder: `start` empties what an earlier run of this `instance` left unfinished in it.

    `run` has to run beside it: it finds out when a disk that refused a write takes one again, and with `behind` small
    results are written there, a few at a time.
    """

    def __init__(
        self, folder: Path, settings: MediaSettings | None = None, *, behind: bool = False, instance: str = ""
    ) -> None:
        self.folder = folder
        self.incoming = folder / (f"{_INCOMING}-{instance}" if instance else _INCOMING)
        """Where outputs lie until they are there whole: another instance's are none of ours."""
        self.failing = False
        """Whether the disk refused the last write; `run` tries it until it takes one again."""
        self._settings = settings or MediaSettings()
        self._behind = behind
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._recent_bytes = 0
        self._unwritten: dict[str, bytes] = {}
        self._unwritten_bytes = 0
        self._incoming_bytes = 0
        self._arrived, self._written = asyncio.Event(), asyncio.Event()

    def write_at_once(self) -> None:
        """From now on a result is in its file before its answer: another instance may be asked for it."""
        self._behind = False

    async def start(self) -> None:
        """Makes the folders (mode 0700) and removes leftovers of outputs that were not received whole."""
        await asyncio.to_thread(self._prepare)

    async def run(self) -> None:
        """Writes small results to their files until it is canceled, and then what is left.

        While the disk refuses writes it tries every RETRY_S, with an empty file where no result waits.
        """
        try:
            while True:
                await self._arrived.wait()
                await asyncio.sleep(RETRY_S if self.failing else FLUSH_S)
                self._arrived.clear()
                await self._write_behind()
        finally:
            self._write(dict(self._unwritten))

    @contextlib.asynccontextmanager
    async def receive(
        self, job_id: str, index: int, media_type: str, *, max_bytes: int = MAX_OUTPUT_BYTES
    ) -> AsyncIterator[Incoming]:
        """A place for output `index` of a job; what is not committed when the scope ends is gone.

        Raises NodeError `media_type` for a type that is not kept.
        """
        incoming = self.open(job_id, index, media_type, max_bytes)
        try:
            yield incoming
        finally:
            await incoming.close()

    def open(self, job_id: str, index: int, media_type: str, max_bytes: int) -> Incoming:
        """As `receive`, for a caller that closes it by itself."""
        if media_type not in EXTENSIONS:
            raise NodeError(f"{printable(media_type, 64)} is no media type of an output", code="media_type")
        return Incoming(self, media_type, f"output {index} of job {job_id}", max_bytes)

    async def keep(self, name: str, data: bytes) -> None:
        """Keeps a small result; written when this returns, or soon where the store is `behind` and not too far.

        Raises LocalError where the disk refuses it.
        """
        if self._behind and not self.failing and self._unwritten_bytes + len(data) <= self._settings.unwritten_bytes:
            self._unwritten[name] = data
            self._unwritten_bytes += len(data)
            self._arrived.set()
        else:
            with self.writing():
                await asyncio.to_thread(self._write, {name: data})
        self._remember(name, data)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What the disk refuses meanwhile is this broadcaster's own failure: raises LocalError."""
        try:
            yield
        except OSError as error:
            self.failing = True
            self._arrived.set()
            log.warning("media cannot be written", folder=str(self.folder), error=str(error))
            raise LocalError(f"{self.why_failing} ({error.strerror})", code="media") from None

    @property
    def why_failing(self) -> str:
        """What is wrong with a store that is failing, and what to do."""
        return f"results cannot be written to {self.folder}: free space, or move `home`"

    def take(self, count: int) -> None:
        """Room for bytes of an incoming output, until they are given back. Raises LocalError where none is left."""
        if self._incoming_bytes + count > self._settings.incoming_bytes:
            text = f"this broadcaster receives {self._settings.incoming_bytes} bytes of results already"
            raise LocalError(f"{text} (media.incoming_bytes); try again later", code="incoming_full")
        self._incoming_bytes += count

    def give(self, count: int) -> None:
        """Gives room back."""
        self._incoming_bytes -= count

    def read(self, name: str) -> tuple[Path | bytes, str]:
        """A kept result's bytes, or its file when it is not in memory, and its media type. Raises as `open_path`."""
        match = _NAME.fullmatch(name)
        if match and (data := self._unwritten.get(name) or self._recent.get(name)):
            return data, _MEDIA_TYPES[match[1]]
        return self.open_path(name)

    async def file(self, name: str) -> tuple[Path, str]:
        """A kept result's file and its media type; waits until it is written. Raises as `open_path`."""
        while name in self._unwritten:
            await self._written.wait()
        return self.open_path(name)

    def open_path(self, name: str) -> tuple[Path, str]:
        """The path and media type of a written file. Raises UserError, HTTP status 404, for any other name."""
        match = _NAME.fullmatch(name)
        path = self.folder / name  # one look at a local folder: no hop to a thread for that
        if match is None or not path.is_file():
            raise UserError("there is no such media; it may have expired", code="not_found", http_status=404)
        return path, _MEDIA_TYPES[match[1]]

    async def sweep(self, now_s: float) -> Swept:
        """Deletes what is older than `ttl_s` at Unix time `now_s`, then the oldest until `max_bytes` hold the rest."""
        swept, deleted = await asyncio.to_thread(self._sweep, now_s)
        for name in deleted:
            self._forget(name)
        return swept

    async def _write_behind(self) -> None:
        taken = dict(self._unwritten)
        try:
            await asyncio.to_thread(self._write if taken else self._probe, taken)
        except OSError as error:
            self.failing = True
            self._arrived.set()
            log.warning("media cannot be written", files=len(taken), error=str(error))
            return
        self.failing = False
        for name, data in taken.items():
            del self._unwritten[name]
            self._unwritten_bytes -= len(data)
        self._written.set()
        self._written = asyncio.Event()

    def _probe(self, _: dict[str, bytes]) -> None:
        """A small write, which a disk without room refuses as it does a result's."""
        name = f"{self.incoming.name}/probe"
        try:
            self._write({name: bytes(PROBE_BYTES)})
        finally:
            (self.folder / name).unlink(missing_ok=True)

    def _write(self, results: dict[str, bytes]) -> None:
        # Bare calls: each call of a file object lets the event loop's thread in and waits to come back.
        for name, data in results.items():
            file = _private(f"{self.folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view) :]
            finally:
                os.close(file)

    def _remember(self, name: str, data: bytes) -> None:
        self._recent[name] = data
        self._recent_bytes += len(data)
        while self._recent_bytes > self._settings.memory_bytes:
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= len(oldest)

    def _forget(self, name: str) -> None:
        if data := self._recent.pop(name, None):
            self._recent_bytes -= len(data)

    def _prepare(self) -> None:
        shutil.rmtree(self.incoming, ignore_errors=True)
        for folder in (self.folder, self.incoming):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)

    def _sweep(self, now_s: float) -> tuple[Swept, list[str]]:
        files = sorted(self._files())
        total = kept = sum(file.size for file in files)
        deleted = []
        for file in files:
            if file.mtime_s >= now_s - self._settings.ttl_s and kept <= self._settings.max_bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.path)
            deleted.append(os.path.basename(file.path))
            kept -= file.size
        return Swept(len(deleted), total - kept, kept), deleted

    def _files(self) -> list[_File]:
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        found.append(_File(status.st_mtime, status.st_size, entry.path))
        return found


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
