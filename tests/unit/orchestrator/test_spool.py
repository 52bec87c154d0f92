"""Bytes on their way: in memory while few, on disk when many, bounded, and gone at the end."""

from __future__ import annotations

import asyncio
import random
import stat
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.spool import LOOK_S, MAX_PIECES, MEMORY_BYTES, Spool, SpooledFile
from reelnet.errors import BusyError, CanceledError, NodeError, ReelnetError
from reelnet.rpc import CHUNK_BYTES

OVER = NodeError("too much", code="output_size")
NOISE = random.Random(1).randbytes(3 * MEMORY_BYTES + 12_345)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool with room for 8 MiB."""
    return Spool(tmp_path / "spool", 8 * 2**20)


def files(spool: Spool) -> list[Path]:
    return sorted(spool.folder.iterdir())


async def written(spool: Spool, data: bytes, piece: int = CHUNK_BYTES) -> SpooledFile:
    """A file with that content, written in pieces."""
    file = spool.open(len(data), OVER)
    for start in range(0, len(data), piece):
        await file.write(data[start : start + piece])
    return file


async def content(file: SpooledFile, offset: int = 0) -> bytes:
    return b"".join([piece async for piece in file.chunks(offset)])


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, MEMORY_BYTES, MEMORY_BYTES + 1, len(NOISE)])
@pytest.mark.parametrize("piece", [CHUNK_BYTES, 100_003])
async def test_what_was_written_is_read(spool: Spool, size: int, piece: int) -> None:
    """Every byte, in frames of a bounded size, with its size."""
    file = await written(spool, NOISE[:size], piece)
    assert await content(file) == NOISE[:size]
    assert file.size == size
    assert all([0 < len(part) <= CHUNK_BYTES async for part in file.chunks()])


@pytest.mark.parametrize(
    "offset", [0, 1, CHUNK_BYTES, MEMORY_BYTES, MEMORY_BYTES + 7, len(NOISE) - 1, len(NOISE), 10**12]
)
async def test_a_reader_may_come_back_anywhere(spool: Spool, offset: int) -> None:
    """A broken stream resumes at any offset, on disk or in memory; behind the end there is nothing."""
    file = await written(spool, NOISE, 300_001)
    assert await content(file, offset) == NOISE[offset:]


async def test_few_bytes_stay_in_memory(spool: Spool) -> None:
    """No file for a small picture; a private one for a clip."""
    await written(spool, NOISE[:MEMORY_BYTES])
    assert files(spool) == []
    await written(spool, NOISE[: MEMORY_BYTES + 1])
    (path,) = files(spool)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700


async def test_small_pieces_are_joined(spool: Spool) -> None:
    """A sender of single bytes costs no more memory than others do, and its bytes are whole."""
    file = await written(spool, NOISE[:10_000], 1)
    assert await content(file, 4_321) == NOISE[4_321:10_000]
    assert len([part async for part in file.chunks()]) <= MAX_PIECES


async def test_a_file_has_a_limit(spool: Spool) -> None:
    """The write that passes it raises the file's own error and changes nothing."""
    file = spool.open(10, OVER)
    await file.write(b"1234567890")
    with pytest.raises(NodeError) as caught:
        await file.write(b"x")
    assert caught.value is OVER
    assert (file.size, await content(file)) == (10, b"1234567890")


async def test_all_files_have_one_budget(tmp_path: Path) -> None:
    """A full spool is busy, with a time to ask again, and free again when a file is erased."""
    spool = Spool(tmp_path / "spool", 100)
    first, second = spool.open(1000, OVER), spool.open(1000, OVER)
    await first.write(bytes(60))
    with pytest.raises(BusyError) as caught:
        await second.write(bytes(41))
    assert caught.value.code == "spool_full"
    assert caught.value.retry_after_s
    await second.write(bytes(40))
    first.erase()
    await second.write(bytes(60))


async def test_erasing_leaves_nothing(spool: Spool) -> None:
    """Memory, disk and budget; twice gives nothing twice."""
    for _ in range(20):  # far more in all than the budget
        file = await written(spool, NOISE)
        file.erase()
        file.erase()
        assert (file.size, await content(file), files(spool)) == (0, b"", [])
    with pytest.raises(BusyError):
        spool.take(8 * 2**20 + 1)
    spool.take(8 * 2**20)


async def test_leftovers_are_removed_at_the_start(spool: Spool) -> None:
    """A node that was killed leaves files: the next start keeps nothing of a job."""
    await written(spool, NOISE)
    assert files(spool)
    assert files(Spool(spool.folder, 100)) == []


async def test_a_disk_that_fails_is_the_attempts_failure(spool: Spool) -> None:
    """A full or broken disk fails the job that needs it with a typed error: it does not end the node."""
    file = spool.open(len(NOISE), OVER)
    spool.folder.rmdir()
    await file.write(NOISE[:MEMORY_BYTES])
    with pytest.raises(ReelnetError):
        await file.write(b"x")


async def gone(spool: Spool) -> None:
    """Until no file is left: the loop hears of a thread's end a little later than the thread ends."""
    await asyncio.get_running_loop().shutdown_default_executor()
    async with asyncio.timeout(10):
        while files(spool):
            await asyncio.sleep(0)


async def test_a_cancel_during_a_spill_leaves_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is canceled while its bytes go to disk leaves no file behind, however slow the disk is."""
    entered, go_on = threading.Event(), threading.Event()
    make = tempfile.NamedTemporaryFile

    def slow(**options: Any) -> Any:
        entered.set()
        go_on.wait(10)
        return make(**options)

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", slow)
    file = spool.open(len(NOISE), OVER)
    writing = asyncio.create_task(file.write(NOISE))
    assert await asyncio.to_thread(entered.wait, 10)
    writing.cancel()
    done, _ = await asyncio.wait((writing,), timeout=0.05)
    if done:  # the write did not wait for its thread: what the thread makes now has to go too
        file.erase()
    go_on.set()
    await asyncio.wait((writing,))
    if not done:
        file.erase()
    await gone(spool)


async def test_an_erased_file_takes_no_more(spool: Spool) -> None:
    """What arrives after a job's end takes nothing of the budget and makes no file."""
    file = spool.open(len(NOISE), OVER)
    await file.write(NOISE[:100])
    file.erase()
    with pytest.raises(CanceledError):
        await file.write(NOISE)
    assert files(spool) == []


async def test_erasing_while_a_thread_writes_breaks_nothing(spool: Spool) -> None:
    """A job that ends in the middle of a spill: no error, no file, no byte of the budget lost."""
    budget = spool._left
    for delay in range(30):
        file = spool.open(len(NOISE), OVER)
        writing = asyncio.create_task(file.write(NOISE))
        for _ in range(delay):
            await asyncio.sleep(0)
        writing.cancel()
        file.erase()
        await asyncio.wait((writing,))
    await gone(spool)
    assert spool._left == budget


async def test_what_a_full_disk_took_is_given_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that could not be written whole is removed at once: nobody knows its name later."""
    inner = Path.open

    def full(path: Path, mode: str = "r", *more: Any) -> Any:
        if mode == "ab":
            with inner(path, mode) as file:
                file.write(b"the part that had room")
            raise OSError(28, "No space left on device")
        return inner(path, mode, *more)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(BusyError) as full_disk:  # which costs the node no reputation
        await written(spool, NOISE)
    assert full_disk.value.code == "disk_full"
    assert files(spool) == []


def test_the_disk_is_looked_at_once_a_second(tmp_path: Path) -> None:
    """Many tickets in a second cost one look; a disk that cannot be read has no room."""
    now, free = [0.0], [5]

    def look(folder: Path) -> int:
        assert folder == tmp_path / "spool"
        if not free:
            raise OSError("gone")
        return free[0]

    spool = Spool(tmp_path / "spool", 100, free=look, clock=lambda: now[0])
    assert spool.free_bytes() == 5
    free[0], now[0] = 7, LOOK_S / 2
    assert spool.free_bytes() == 5
    now[0] = LOOK_S
    assert spool.free_bytes() == 7
    free.clear()
    now[0] = 2 * LOOK_S
    assert spool.free_bytes() == 0
