"""Strangers' files are checked in child processes that may die, hang or grow without harm."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broadcaster.inspector import InspectionSettings, Inspector
from reelnet.clips import ClipLimits
from reelnet.errors import NodeError, StartError, TransientError, UserError
from reelnet.inspection import InputLimits
from reelnet.pipelines import MediaSpec
from tests.fakes.media import Clip, encoded, exif, pattern, png_claiming, with_parts

PNG_BYTES = encoded(pattern(64, 48), "PNG")
STILL = MediaSpec("image", 64, 48)
CLIP = Clip()
CLIP_SPEC = MediaSpec("video", CLIP.width, CLIP.height, CLIP.frames, CLIP.fps)


def children() -> set[int]:
    """Process ids of this process's own children, zombies included."""
    while True:
        try:
            tasks = list(Path("/proc/self/task").iterdir())
            return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread ended meanwhile, and its children went to another one


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> AsyncIterator[None]:
    before, files = children(), open_files()
    yield
    assert children() == before
    assert open_files() <= files + 1  # the event loop's own may still be open


@pytest.fixture
def png(tmp_path: Path) -> Path:
    path = tmp_path / "picture"
    path.write_bytes(PNG_BYTES)
    return path


async def stalled(path: Path) -> None:
    """Makes `path` a pipe that nobody writes to: a check of it hangs until it is ended."""
    os.mkfifo(path)


async def until_opened(path: Path) -> int:
    """Waits until a child reads the pipe, and returns our end of it."""
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            await asyncio.sleep(0.005)


async def until_gone(child: int) -> None:
    """Waits until nothing is left of a child; a killed one gives its memory back first."""
    while child in children():
        await asyncio.sleep(0.005)


async def test_facts_come_back(png: Path, tmp_path: Path) -> None:
    """A picture and a clip, each checked in the child."""
    clip = tmp_path / "clip"
    clip.write_bytes(CLIP.encode())
    async with Inspector() as inspector:
        facts = await inspector.picture(png)
        assert (facts.media_type, facts.width, facts.height, facts.size) == ("image/png", 64, 48, len(PNG_BYTES))
        assert (await inspector.output(png, "image/png", STILL, 10**6)).fingerprint == facts.fingerprint
        assert (await inspector.output(clip, "video/mp4", CLIP_SPEC, 10**6)).frames == CLIP.frames
        assert len(children()) == 1


async def test_errors_come_back_whole(png: Path, tmp_path: Path) -> None:
    """Class, code, text, status and place are those of the check; the child goes on."""
    bomb = tmp_path / "bomb"
    bomb.write_bytes(png_claiming(14143, 14143))
    async with Inspector() as inspector:
        before = children()
        with pytest.raises(UserError) as user:
            await inspector.picture(bomb)
        assert (user.value.code, user.value.http_status, user.value.loc) == ("too_large", 413, ("image",))
        assert user.value.message == "the picture is 14143×14143 = 200.0 megapixels; at most 50.0 are allowed"
        with pytest.raises(UserError, match=r"at most 0\.0 are allowed"):
            await inspector.picture(png, limits=InputLimits(max_pixels=1000))
        with pytest.raises(NodeError) as node:
            await inspector.output(png, "image/png", MediaSpec("image", 8, 8), 10**6)
        assert (node.value.code, node.value.http_status) == ("size", 500)
        assert children() == before


async def test_a_copy_without_metadata(tmp_path: Path) -> None:
    """The facts are the copy's: a turned JPEG becomes an upright PNG, readable by its owner alone."""
    source, target = tmp_path / "photo", tmp_path / "clean"
    source.write_bytes(encoded(pattern(64, 48), "JPEG", exif=exif(6)))
    async with Inspector() as inspector:
        facts = await inspector.picture(source, stripped_to=target)
        assert (facts.media_type, facts.width, facts.height) == ("image/png", 48, 64)
        assert await inspector.picture(target) == facts
    assert b"SECRETCAMERA" not in target.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600


async def test_a_refused_picture_leaves_no_copy(tmp_path: Path) -> None:
    """Nothing lies where the copy would have been."""
    source, target = tmp_path / "photo", tmp_path / "clean"
    source.write_bytes(PNG_BYTES[:-9])
    async with Inspector() as inspector:
        with pytest.raises(UserError, match="damaged"):
            await inspector.picture(source, stripped_to=target)
    assert not target.exists()


async def test_a_missing_file_is_nobodys_fault(tmp_path: Path) -> None:
    """A broken disk or a lost file blames neither the app nor the node."""
    async with Inspector() as inspector:
        with pytest.raises(TransientError, match="could not be read"):
            await inspector.output(tmp_path / "none", "image/png", STILL, 10**6)


async def test_a_child_that_dies_is_replaced(png: Path, tmp_path: Path) -> None:
    """Killed in the middle of a check: that one request fails, typed, and the next one works."""
    hung = tmp_path / "hung"
    await stalled(hung)
    async with Inspector(InspectionSettings(workers=1)) as inspector:
        for failure, request in (
            (UserError, lambda: inspector.picture(hung)),
            (NodeError, lambda: inspector.output(hung, "image/png", STILL, 10**6)),
        ):
            check = asyncio.ensure_future(request())
            end = await until_opened(hung)
            (child,) = children()
            os.kill(child, signal.SIGKILL)
            with pytest.raises(failure, match="could not be decoded within the limits"):
                await check
            os.close(end)
            assert (await inspector.picture(png)).width == 64
            assert children() != {child}


async def test_a_child_that_died_while_idle_blames_nobody(png: Path) -> None:
    """The next request gets a new child."""
    async with Inspector() as inspector:
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        (idle,) = inspector._children
        while idle.fit:
            await asyncio.sleep(0.005)
        assert (await inspector.picture(png)).width == 64


async def test_too_much_memory_ends_the_check(png: Path, tmp_path: Path) -> None:
    """A picture within every bound that still needs more memory than the child has."""
    large = tmp_path / "large"
    large.write_bytes(png_claiming(16_000, 16_000, 16_000))
    async with Inspector(InspectionSettings(memory_bytes=2**29)) as inspector:
        with pytest.raises(UserError) as error:
            await inspector.picture(large, limits=InputLimits(max_pixels=300_000_000))
        assert (error.value.code, error.value.http_status, error.value.loc) == ("over_limits", 415, ("image",))
        assert (await inspector.picture(png)).width == 64


async def test_too_much_time_ends_the_check(png: Path, tmp_path: Path) -> None:
    """A check that hangs is ended by the clock."""
    hung = tmp_path / "hung"
    await stalled(hung)
    async with Inspector(InspectionSettings(timeout_s=0.05)) as inspector:
        with pytest.raises(NodeError) as error:
            await inspector.output(hung, "image/png", STILL, 10**6)
        assert error.value.code == "over_limits"
    async with Inspector() as inspector:
        assert (await inspector.picture(png)).width == 64


@pytest.mark.parametrize(
    "data",
    [
        encoded(pattern(64, 48), "JPEG")[:-2] + b"\xff" * 2**23,
        encoded(pattern(64, 48), "JPEG")[:2] + b"\xff" * 2**23,
        encoded(pattern(64, 48), "JPEG")[:-2] + b"\xff\x00" * 2**22,
        with_parts(encoded(pattern(64, 48), "PNG"), "image/png", 2_000_000),
    ],
    ids=["a scan of fill bytes", "a header of fill bytes", "a scan of stuffed bytes", "two million chunks"],
)
async def test_no_file_takes_long_to_walk(data: bytes, tmp_path: Path) -> None:
    """What is refused is refused as what it is, within 2 s of a child's CPU: the walk is linear and bounded."""
    path = tmp_path / "picture"
    path.write_bytes(data)
    async with Inspector(InspectionSettings(cpu_s=2)) as inspector:
        with pytest.raises(UserError) as caught:
            await inspector.picture(path, stripped_to=tmp_path / "copy")
    assert caught.value.code in {"damaged", "too_many_parts"}


async def test_cancelling_ends_the_check_and_its_child(png: Path, tmp_path: Path) -> None:
    """Who leaves takes the running check along; the place is free again, and no copy is left."""
    hung, target = tmp_path / "hung", tmp_path / "clean"
    await stalled(hung)
    async with Inspector() as inspector:
        (child,) = children()
        check = asyncio.ensure_future(inspector.picture(hung, stripped_to=target))
        end = await until_opened(hung)
        waiting = asyncio.ensure_future(inspector.picture(png))
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check
        assert (await waiting).width == 64
        await until_gone(child)
        os.close(end)
    assert not target.exists()


async def test_cancelling_a_waiting_check_costs_nothing(png: Path, tmp_path: Path) -> None:
    """The child's request is another's and goes on."""
    slow = tmp_path / "slow"
    await stalled(slow)
    async with Inspector() as inspector:
        before = children()
        check = asyncio.ensure_future(inspector.picture(slow))
        end = await until_opened(slow)
        waiting = asyncio.ensure_future(inspector.picture(png))
        await asyncio.sleep(0)
        waiting.cancel()
        os.write(end, PNG_BYTES)
        os.close(end)
        assert (await check).width == 64
        assert children() == before


async def test_leaving_ends_running_checks(tmp_path: Path) -> None:
    """A stop fails what is under way as the broadcaster's matter, not as the node's."""
    hung = tmp_path / "hung"
    await stalled(hung)
    async with Inspector() as inspector:
        check = asyncio.ensure_future(inspector.output(hung, "image/png", STILL, 10**6))
        waiting = asyncio.ensure_future(inspector.output(hung, "image/png", STILL, 10**6))
        writer = await until_opened(hung)  # open until the stop: at its end the child would have its answer
    os.close(writer)
    for task in (check, waiting):
        with pytest.raises(TransientError) as error:
            await task
        assert error.value.code == "stopping"


async def test_leaving_ends_a_child_that_only_starts(tmp_path: Path) -> None:
    """A process that nobody has used yet is left behind by no stop."""
    hung = tmp_path / "hung"
    await stalled(hung)
    async with Inspector() as inspector:
        held = asyncio.ensure_future(inspector.picture(hung))
        writer = await until_opened(hung)
        starting = asyncio.ensure_future(inspector.picture(hung))
        while len(children()) < 2:
            await asyncio.sleep(0.001)
    os.close(writer)
    assert not children()
    for task in (held, starting):
        with pytest.raises(TransientError, match="the broadcaster stops"):
            await task


async def test_children_are_recycled(png: Path) -> None:
    """A decoder's leak lives as long as a few requests."""
    async with Inspector(InspectionSettings(requests_per_worker=2)) as inspector:
        seen = set()
        for _ in range(5):
            await inspector.picture(png)
            seen |= children()
        assert len(seen) >= 2


async def test_more_workers_check_at_the_same_time(png: Path, tmp_path: Path) -> None:
    """A hung check does not stop the others."""
    hung = tmp_path / "hung"
    await stalled(hung)
    async with Inspector() as inspector:
        assert len(children()) == 1
        check = asyncio.ensure_future(inspector.picture(hung))
        end = await until_opened(hung)
        assert (await inspector.picture(png)).width == 64
        check.cancel()
        os.close(end)


@pytest.mark.parametrize("workers", [2, 3])
async def test_clips_leave_a_child_to_pictures(workers: int, png: Path, tmp_path: Path) -> None:
    """However many clips are held, an app's as a node's, a picture is checked, and no child is started for them."""
    hung = [tmp_path / f"hung-{index}" for index in range(workers - 1)]
    for path in hung:
        await stalled(path)
    async with Inspector(InspectionSettings(workers=workers)) as inspector:
        held = [asyncio.ensure_future(inspector.clip(path, stripped_to=tmp_path / "kept")) for path in hung]
        ends = [await until_opened(path) for path in hung]
        held += [asyncio.ensure_future(inspector.output(hung[0], "video/mp4", CLIP_SPEC, 10**6)) for _ in range(3)]
        await asyncio.sleep(0)  # they ask before the pictures do
        assert len(children()) == workers - 1
        assert (await inspector.picture(png)).width == 64
        assert (await inspector.output(png, "image/png", STILL, 10**6)).width == 64
        assert len(children()) == workers
        for check in held:
            check.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        for end in ends:
            os.close(end)


async def test_the_next_clip_follows_the_last(tmp_path: Path) -> None:
    """Clips take turns, also where there is a single child for all, and one that leaves its place gives it on."""
    given = tmp_path / "given"
    given.write_bytes(Clip(frames=5).encode())
    async with Inspector(InspectionSettings(workers=1)) as inspector:
        checks = [
            asyncio.ensure_future(inspector.clip(given, stripped_to=tmp_path / f"kept-{index}")) for index in range(4)
        ]
        await asyncio.sleep(0)
        checks[1].cancel()
        found = await asyncio.gather(*checks, return_exceptions=True)
        assert [getattr(facts, "frames", None) for facts in found] == [5, None, 5, 5]
        assert len(children()) == 1


async def test_a_worker_that_cannot_start_is_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known before the first job, and says what to try."""
    monkeypatch.setattr("broadcaster.inspector._WORKER", "reelnet.no_such_module")
    with pytest.raises(StartError, match=r"python -m reelnet\.no_such_module"):
        async with Inspector():
            pass


async def test_a_child_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the process that decodes strangers' files is bare."""
    monkeypatch.setenv("REELNET_SECRET", "x")
    async with Inspector():
        (child,) = children()
        assert b"REELNET_SECRET" not in Path(f"/proc/{child}/environ").read_bytes()
        limits = Path(f"/proc/{child}/limits").read_text()
    for line in ("Max core file size 0 0", "Max address space 1073741824 1073741824", "Max open files 32 32"):
        assert line in " ".join(limits.split())


async def test_an_app_s_clip_is_looked_at_in_the_child(tmp_path: Path) -> None:
    """Its facts and its copy come back; a refused one leaves no copy."""
    given, kept = tmp_path / "given", tmp_path / "kept"
    given.write_bytes(Clip(frames=5, sound=True).encode())
    async with Inspector() as inspector:
        facts = await inspector.clip(given, stripped_to=kept)
        assert (facts.frames, facts.fps, facts.fps_den, facts.size) == (5, 6, 1, kept.stat().st_size)
        with pytest.raises(UserError) as caught:
            await inspector.clip(given, stripped_to=kept, limits=ClipLimits(max_frames=4))
    assert (caught.value.code, caught.value.http_status, caught.value.loc) == ("too_long", 413, ("video",))
    assert not kept.exists()


async def test_a_clip_that_hangs_its_child_is_over_the_limits(tmp_path: Path) -> None:
    """A larger clip may take longer, and no clip for ever."""
    given, kept = tmp_path / "given", tmp_path / "kept"
    await stalled(given)
    async with Inspector(InspectionSettings(timeout_s=0.2, clip_gpix_s=0)) as inspector:
        with pytest.raises(UserError) as caught:
            await inspector.clip(given, stripped_to=kept)
    assert caught.value.code == "over_limits"
    assert not kept.exists()


async def test_a_process_without_descriptors_checks_nothing_and_lives(
    png: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other child can be started for now: the check is this broadcaster's own failure, and the next one works."""
    async with Inspector(InspectionSettings(requests_per_worker=1)) as inspector:
        assert (await inspector.picture(png)).width == 64

        def none_left(*_: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as short:
            short.setattr(os, "memfd_create", none_left)
            with pytest.raises(TransientError, match="Too many open files"):
                await inspector.picture(png)
        assert (await inspector.picture(png)).width == 64


async def test_a_closed_line_gives_no_earlier_answer(png: Path) -> None:
    """A child whose connection has ended, and that is not known to have ended, vouches for nothing."""
    async with Inspector(InspectionSettings(workers=1)) as inspector:
        assert (await inspector.output(PNG_BYTES, "image/png", STILL, 10**6)).width == 64
        (child,) = inspector._children
        child._line.close()
        with pytest.raises(NodeError):
            await inspector.output(b"no picture at all", "image/png", STILL, 10**6)
