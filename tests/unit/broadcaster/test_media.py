"""Results lie in private files with unguessable names, for a time and up to a size."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType

import pytest

from broadcaster import media
from broadcaster.local_failure import LocalError
from broadcaster.media import BATCH_BYTES, MediaSettings, MediaStore
from reelnet.errors import NodeError, UserError

CHUNK = bytes(range(256)) * 1024


@pytest.fixture
async def store(tmp_path: Path) -> MediaStore:
    store = MediaStore(tmp_path / "media")
    await store.start()
    return store


def left_in(folder: Path) -> list[str]:
    """Names of all files below the store's folder."""
    return sorted(path.name for path in (folder / "media").rglob("*") if path.is_file())


async def kept(store: MediaStore, data: bytes, media_type: str = "image/png") -> str:
    async with store.receive("job", 0, media_type) as incoming:
        await incoming.write(data)
        return (await incoming.commit()).name


@pytest.mark.parametrize("chunks", [0, 1, 3, 4, 5, 9])
async def test_what_comes_in_is_kept(store: MediaStore, tmp_path: Path, chunks: int) -> None:
    """Size, digest and bytes are right for outputs smaller and larger than what is held in memory."""
    async with store.receive("job", 0, "video/mp4") as incoming:
        for _ in range(chunks):
            await incoming.write(CHUNK)
        assert incoming.sha256 == hashlib.sha256(CHUNK * chunks).hexdigest()
        content = await incoming.content()
        assert isinstance(content, Path) is (len(CHUNK) * chunks >= BATCH_BYTES)
        assert (content.read_bytes() if isinstance(content, Path) else content) == CHUNK * chunks
        stored = await incoming.commit()
    digest = hashlib.sha256(CHUNK * chunks).hexdigest()
    assert (stored.media_type, stored.size, stored.sha256) == ("video/mp4", len(CHUNK) * chunks, digest)
    path, media_type = store.open_path(stored.name)
    assert (path.read_bytes(), media_type) == (CHUNK * chunks, "video/mp4")
    assert left_in(tmp_path) == [stored.name]


async def test_a_small_output_costs_one_hop(store: MediaStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the batch size nothing is written before it is committed, and nothing twice."""
    hops = 0
    to_thread = asyncio.to_thread

    async def counted(work: Callable[..., object], *args: object) -> object:
        nonlocal hops
        hops += 1
        return await to_thread(work, *args)

    monkeypatch.setattr(media.asyncio, "to_thread", counted)
    async with store.receive("job", 0, "image/png") as incoming:
        for _ in range(BATCH_BYTES // len(CHUNK) - 1):
            await incoming.write(CHUNK)
        await incoming.content()
        assert hops == 0
        await incoming.commit()
    assert hops == 1


@pytest.mark.parametrize(
    ("media_type", "extension"),
    [("image/png", "png"), ("image/jpeg", "jpg"), ("image/webp", "webp"), ("video/mp4", "mp4")],
)
async def test_names_are_unguessable_and_typed(store: MediaStore, media_type: str, extension: str) -> None:
    """128 random bits, then the type's ending; the type comes back with the path."""
    names = [await kept(store, b"x", media_type) for _ in range(2)]
    for name in names:
        token, _, ending = name.partition(".")
        assert (len(bytes.fromhex(token)), ending) == (16, extension)
        assert store.open_path(name)[1] == media_type
    assert len(set(names)) == 2


async def test_files_are_private(store: MediaStore, tmp_path: Path) -> None:
    """Nobody else on the machine reads them."""
    path, _ = store.open_path(await kept(store, b"x"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert {folder.stat().st_mode & 0o777 for folder in (path.parent, path.parent / "incoming")} == {0o700}


async def test_other_types_are_the_nodes_failure(store: MediaStore) -> None:
    """What is kept is served, so a page or a script never gets in."""
    with pytest.raises(NodeError) as error:
        await kept(store, b"x", "text/html\x1b[31m")
    assert error.value.code == "media_type"
    assert "\x1b" not in error.value.message


@pytest.mark.parametrize("limit", [len(CHUNK) * 2, 5])
async def test_too_many_bytes_are_the_nodes_failure(store: MediaStore, tmp_path: Path, limit: int) -> None:
    """The limit holds while the bytes come in, and nothing of them stays."""
    async with store.receive("j7", 3, "image/png", max_bytes=limit) as incoming:
        for _ in range(limit // len(CHUNK)):
            await incoming.write(CHUNK)
        with pytest.raises(NodeError, match="output 3 of job j7 has more than") as error:
            await incoming.write(CHUNK)
    assert error.value.code == "bytes"
    assert left_in(tmp_path) == []


async def test_what_is_not_committed_is_gone(store: MediaStore, tmp_path: Path) -> None:
    """The scope's end removes it, whether it failed or just ended."""
    async with store.receive("job", 0, "image/png") as incoming:
        await incoming.write(CHUNK)
        await incoming.content()
    with contextlib.suppress(ZeroDivisionError):
        async with store.receive("job", 0, "image/png") as incoming:
            for _ in range(5):
                await incoming.write(CHUNK)
            raise ZeroDivisionError
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("module", "function", "first"), [(media, "_private", "wait"), (os, "rename", "work")])
async def test_a_thread_that_outlives_its_scope_leaves_nothing(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, function: str, first: str
) -> None:
    """A cancelled task cannot stop its thread, which opens or renames the file; the thread cleans up behind it."""
    began, may_go_on = threading.Event(), threading.Event()
    work = getattr(module, function)

    def late(*args: object) -> object:
        done = work(*args) if first == "work" else None
        began.set()
        may_go_on.wait(10)
        return done if first == "work" else work(*args)

    async def receive() -> None:
        async with store.receive("job", 0, "image/png") as incoming:
            for _ in range(BATCH_BYTES // len(CHUNK)):
                await incoming.write(CHUNK)
            await incoming.commit()

    monkeypatch.setattr(module, function, late)
    task = asyncio.ensure_future(receive())
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_go_on.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert left_in(tmp_path) == []


async def test_an_output_is_committed_once(store: MediaStore) -> None:
    """A second commit, or one after the scope, is a fault of the program."""
    async with store.receive("job", 0, "image/png") as incoming:
        await incoming.commit()
        with pytest.raises(ValueError, match="already"):
            await incoming.commit()
    with pytest.raises(ValueError, match="already"):
        await incoming.commit()


TOKEN = "0" * 32


@pytest.mark.parametrize(
    "name",
    [
        "",
        f"{TOKEN}.png",
        f"{TOKEN}.html",
        f"{TOKEN}.png\n",
        f"../media/{TOKEN}.png",
        "../secret",
        "/etc/passwd",
        f"incoming/{TOKEN}",
        "incoming",
        f"{TOKEN}.png\x00",
        "é" * 32 + ".png",
        "A" * 32 + ".png",
    ],
)
async def test_no_other_name_opens_anything(store: MediaStore, tmp_path: Path, name: str) -> None:
    """Neither a guess, nor a way out of the folder, nor what is still coming in."""
    (tmp_path / "secret").write_text("x")
    with pytest.raises(UserError) as error:
        store.open_path(name)
    assert (error.value.code, error.value.http_status) == ("not_found", 404)


async def test_a_start_removes_leftovers_and_keeps_results(store: MediaStore, tmp_path: Path) -> None:
    """A run that was killed leaves no half outputs; what it had committed stays."""
    name = await kept(store, b"x")
    (tmp_path / "media" / "incoming" / TOKEN).write_bytes(b"half")
    await MediaStore(tmp_path / "media").start()
    assert left_in(tmp_path) == [name]


async def test_old_results_are_swept(store: MediaStore, tmp_path: Path) -> None:
    """By age, from the oldest on; other files in the folder are not ours to delete."""
    names = [await kept(store, b"12345") for _ in range(3)]
    for age_s, name in zip((0.0, 86_399.0, 86_401.0), names, strict=True):
        os.utime(store.open_path(name)[0], (10**6 - age_s,) * 2)
    (tmp_path / "media" / "README").write_text("x")
    swept = await store.sweep(10**6)
    assert (swept.files, swept.bytes, swept.kept_bytes) == (1, 5, 10)
    assert left_in(tmp_path) == sorted(["README", *names[:2]])


async def test_the_oldest_give_way_to_the_newest(tmp_path: Path) -> None:
    """By size: exactly as many of the oldest go as the bound asks."""
    store = MediaStore(tmp_path / "media", MediaSettings(max_bytes=25))
    await store.start()
    names = [await kept(store, b"0123456789") for _ in range(5)]
    for age_s, name in enumerate(names):
        os.utime(store.open_path(name)[0], (1000.0 - age_s,) * 2)
    swept = await store.sweep(1000.0)
    assert (swept.files, swept.bytes, swept.kept_bytes) == (3, 30, 20)
    assert left_in(tmp_path) == sorted(names[:2])
    assert (await store.sweep(1000.0)).files == 0


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[MediaStore]:
    """A store that writes behind, with its writer."""
    store = MediaStore(tmp_path / "media", MediaSettings(memory_bytes=len(CHUNK)), behind=True)
    await store.start()
    writer = asyncio.create_task(store.run())
    yield store
    writer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writer


async def test_a_small_result_is_there_before_its_file(behind: MediaStore, tmp_path: Path) -> None:
    """It is read from memory at once; who needs the file waits for it."""
    name = await kept(behind, b"first")
    assert left_in(tmp_path) == []
    assert behind.read(name) == (b"first", "image/png")
    path, media_type = await behind.file(name)
    assert (path.read_bytes(), media_type, path.stat().st_mode & 0o777) == (b"first", "image/png", 0o600)


async def test_a_stop_writes_what_is_left(tmp_path: Path) -> None:
    """Nothing that was committed is lost when the broadcaster stops in the same moment."""
    store = MediaStore(tmp_path / "media", behind=True)
    await store.start()
    writer = asyncio.create_task(store.run())
    await asyncio.sleep(0)
    names = [await kept(store, b"x") for _ in range(3)]
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    assert left_in(tmp_path) == sorted(names)


async def test_memory_is_bounded(behind: MediaStore) -> None:
    """The oldest leave it first, and are read from their files."""
    names = [await kept(behind, CHUNK) for _ in range(2)]
    for name in names:
        await behind.file(name)
    assert isinstance(behind.read(names[0])[0], Path)
    assert behind.read(names[1])[0] == CHUNK


async def test_what_cannot_wait_is_written_at_once(tmp_path: Path) -> None:
    """Beyond the bytes that may wait, a commit waits for the disk as a store that is not behind does."""
    store = MediaStore(tmp_path / "media", MediaSettings(unwritten_bytes=3), behind=True)
    await store.start()
    names = [await kept(store, data) for data in (b"12", b"34")]
    assert left_in(tmp_path) == [names[1]]
    assert [store.read(name)[0] for name in names] == [b"12", b"34"]


async def test_a_disk_that_refuses_is_tried_again(
    behind: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits stays readable, new results fail instead of piling up, and nothing is lost when the disk is back."""
    monkeypatch.setattr(media, "RETRY_S", 0.01)
    private = media._private

    def full(path: str, flags: int) -> int:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(media, "_private", full)
    name = await kept(behind, b"first")
    while not behind.failing:
        await asyncio.sleep(0.005)
    assert behind.read(name)[0] == b"first"
    with pytest.raises(LocalError, match=f"cannot be written to {behind.folder}.*disk full") as error:
        await kept(behind, b"second")
    assert (error.value.code, error.value.http_status) == ("media", 503)
    monkeypatch.setattr(media, "_private", private)
    assert (await behind.file(name))[0].read_bytes() == b"first"
    assert not behind.failing
    assert left_in(tmp_path) == [name]


async def test_a_disk_is_tried_where_nothing_waits(
    behind: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large output that the disk refused fails, and a small write finds out when there is room again."""
    monkeypatch.setattr(media, "RETRY_S", 0.01)
    private, tried = media._private, asyncio.Event()
    loop = asyncio.get_running_loop()

    def full(path: str, flags: int) -> int:
        if "probe" in path:
            loop.call_soon_threadsafe(tried.set)
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(media, "_private", full)
    async with behind.receive("j", 0, "image/png") as incoming:
        with pytest.raises(LocalError):
            await incoming.write(bytes(media.BATCH_BYTES))
    await tried.wait()
    assert behind.failing
    monkeypatch.setattr(media, "_private", private)
    while behind.failing:
        await asyncio.sleep(0.005)
    assert left_in(tmp_path) == []


async def test_what_all_jobs_receive_is_bounded(tmp_path: Path) -> None:
    """Bytes beyond the bound are this broadcaster's own failure; an output that ends gives its room back once."""
    store = MediaStore(tmp_path / "media", MediaSettings(incoming_bytes=10))
    await store.start()
    async with store.receive("a", 0, "image/png") as first:
        await first.write(b"123456")
        async with store.receive("b", 0, "image/png") as second:
            await second.write(b"1234")
            with pytest.raises(LocalError, match=r"media\.incoming_bytes") as error:
                await second.write(b"5")
            assert (error.value.code, error.value.http_status) == ("incoming_full", 503)
        await first.write(b"1234")
        await first.commit()
    await first.close()
    async with store.receive("c", 0, "image/png") as third:
        await third.write(b"1234567890")
        with pytest.raises(LocalError):
            await third.write(b"1")


async def test_a_swept_result_leaves_memory_too(behind: MediaStore, tmp_path: Path) -> None:
    """An expired result is gone wherever it was."""
    name = await kept(behind, b"x")
    path, _ = await behind.file(name)
    os.utime(path, (0, 0))
    await behind.sweep(10**9)
    with pytest.raises(UserError):
        behind.read(name)
