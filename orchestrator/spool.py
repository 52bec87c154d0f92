"""Bytes of inputs and outputs while they are on their way: bounded, in memory while small, on disk when not."""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from reelnet.errors import BusyError, CanceledError, NodeError, ReelnetError
from reelnet.home import free_bytes
from reelnet.rpc import CHUNK_BYTES

FULL = (errno.ENOSPC, errno.EDQUOT)
MEMORY_BYTES = 1024 * 1024
MAX_PIECES = 64
"""More pieces in memory are joined: small ones would cost many times their bytes."""


LOOK_S = 1.0
"""The disk is looked at no more often: a full node is asked often."""


class Spool:
    """The node's budget of spooled bytes, and the private folder for those that do not fit into memory."""

    def __init__(
        self,
        folder: Path,
        budget_bytes: int,
        *,
        free: Callable[[Path], int] = free_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._budget = self._left = budget_bytes
        self._free, self._clock = free, clock
        self._looked_at, self._found = float("-inf"), 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in folder.iterdir():  # of a start that was killed: nothing is kept after a job
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def open(self, limit_bytes: int, over_limit: ReelnetError) -> SpooledFile:
        """A new empty file; `over_limit` is raised by the write that passes `limit_bytes`."""
        return SpooledFile(self, limit_bytes, over_limit)

    @property
    def used_bytes(self) -> int:
        """The bytes that are held now."""
        return self._budget - self._left

    def free_bytes(self) -> int:
        """Bytes that are free on the folder's disk, at most a second ago; 0 for a disk that cannot be read."""
        if self._clock() - self._looked_at >= LOOK_S:
            self._looked_at = self._clock()
            try:
                self._found = self._free(self.folder)
            except OSError:
                self._found = 0
        return self._found

    def take(self, count: int) -> None:
        """Takes bytes from the budget. Raises BusyError when none are left."""
        if count > self._left:
            raise BusyError("this node's spool is full", code="spool_full", retry_after_s=10)
        self._left -= count

    def give(self, count: int) -> None:
        """Gives bytes back."""
        self._left += count


class SpooledFile:
    """One input or output: written once, read from any offset, erased at the end.

    What is in memory stays in the pieces that it came in: nothing is copied on the way through.
    """

    def __init__(self, spool: Spool, limit_bytes: int, over_limit: ReelnetError) -> None:
        self._spool = spool
        self._limit = limit_bytes
        self._over_limit = over_limit
        self._memory: list[bytes] = []
        self._in_memory = 0
        self._path: Path | None = None
        self._erased = False
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Appends. Raises the limit's error or BusyError, and CanceledError after `erase`."""
        if self._erased:
            raise CanceledError("the job is over here")
        if self.size + len(data) > self._limit:
            raise self._over_limit
        self._spool.take(len(data))
        self.size += len(data)
        self._memory.append(data)
        self._in_memory += len(data)
        if self._in_memory > MEMORY_BYTES:
            await self._to_disk()
        elif len(self._memory) > MAX_PIECES:
            self._memory = [b"".join(self._memory)]

    async def chunks(self, offset: int = 0) -> AsyncIterator[bytes]:
        """The content from `offset` on, in pieces of at most a frame's size."""
        while piece := await self.read(offset):
            offset += len(piece)
            yield piece

    async def read(self, offset: int) -> bytes:
        """Some of the content from `offset` on, at most a frame's size; nothing at the end."""
        if offset >= self.size:
            return b""
        on_disk = self.size - self._in_memory
        if offset < on_disk:
            return await asyncio.to_thread(self._read_disk, offset, min(CHUNK_BYTES, on_disk - offset))
        return self._read_memory(offset - on_disk)

    def erase(self) -> None:
        """Removes the bytes, for ever, and gives their budget back. Safe to repeat."""
        self._erased = True
        self._spool.give(self.size)
        self.size = 0
        self._memory, self._in_memory = [], 0
        path, self._path = self._path, None
        if path:
            path.unlink(missing_ok=True)

    def _read_memory(self, start: int) -> bytes:
        """A frame's bytes from `start` on; joined only where they span pieces."""
        slices: list[bytes] = []
        left = CHUNK_BYTES
        for piece in self._memory:
            if start < len(piece) and left:
                slices.append(piece[start : start + left])
                left -= len(slices[-1])
            start = max(0, start - len(piece))
        return slices[0] if len(slices) == 1 else b"".join(slices)

    async def _to_disk(self) -> None:
        """Moves what is in memory to the file."""
        spilling = asyncio.ensure_future(asyncio.to_thread(self._spill, b"".join(self._memory), self._path))
        spilling.add_done_callback(self._spilled)
        try:
            await asyncio.shield(spilling)
        except OSError as error:
            if error.errno in FULL:
                raise BusyError("the disk of this node's spool is full", code="disk_full", retry_after_s=10) from None
            raise NodeError(f"the node's spool cannot be written: {error.strerror}", code="disk") from None

    def _spill(self, data: bytes, path: Path | None) -> Path:
        """In a thread, which outlives a cancel: it touches nothing of this object. Returns where the bytes are."""
        new = path is None
        if path is None:
            with tempfile.NamedTemporaryFile(dir=self._spool.folder, delete=False) as file:
                path = Path(file.name)
        try:
            with path.open("ab") as file:
                file.write(data)
        except OSError:
            if new:  # nobody would know of it: a full disk must not keep it
                path.unlink(missing_ok=True)
            raise
        return path

    def _spilled(self, spilling: asyncio.Future[Path]) -> None:
        """The thread is done: its file is ours, or, when the job was over before, nobody's."""
        if spilling.cancelled() or spilling.exception():
            return
        if self._erased:
            spilling.result().unlink(missing_ok=True)
        else:
            self._path, self._memory, self._in_memory = spilling.result(), [], 0

    def _read_disk(self, offset: int, count: int) -> bytes:
        assert self._path is not None
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(count)
