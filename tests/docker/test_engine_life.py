"""What becomes of runners when they, their node or the Docker engine end: on a real engine."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.docker_container import DockerOptions, container_name
from orchestrator.docker_engine import LOOK_AGAIN_S
from orchestrator.docker_facts import LOST
from orchestrator.engine import EngineError, Resources, RunnerEngine, RunnerExit, RunnerHandle
from tests.contract.engine_suite import ready
from tests.docker.engines import TestEngine, need_engine
from tests.docker.nodes import NodeEngine, docker_node, runner_spec
from tests.fakes.pool import PATIENCE_S

NEWS_S = LOOK_AGAIN_S / 2
"""What an event tells is known sooner than by looking now and then."""


@pytest.fixture
async def node(docker_engine: TestEngine) -> AsyncIterator[NodeEngine]:
    """A node on the tests' engine."""
    async with docker_node(docker_engine) as running:
        yield running


@pytest.fixture
async def live(docker_engine: TestEngine) -> AsyncIterator[TestEngine]:
    """The engine with live-restore; without it again afterwards."""
    await asyncio.to_thread(docker_engine.restart, live_restore=True)
    yield docker_engine
    await asyncio.to_thread(docker_engine.restart)


async def ended(engine: RunnerEngine, handle: RunnerHandle) -> RunnerExit:
    """How it ended, within the patience."""
    return await asyncio.wait_for(engine.wait(handle), PATIENCE_S)


async def answers(handle: RunnerHandle) -> bool:
    """Whether the runner serves."""
    client = await ready(handle)
    try:
        return (await client.health()).state == "READY"
    finally:
        await client.close()


async def test_a_killed_container_is_told_at_once(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """As the signal that it was, the same as of a process; nothing is made up about memory."""
    handle = await node.engine.start(runner_spec(folder, synthetic_image))
    assert await answers(handle)
    waiting = asyncio.create_task(node.engine.wait(handle))
    await asyncio.to_thread(node.docker.docker, "kill", handle.ref)
    told = await asyncio.wait_for(waiting, NEWS_S)
    assert (told.code, told.oom_killed, told.why) == (-9, False, "")
    assert "model ready" in told.tail


async def test_a_removed_container_is_told(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """Somebody's `docker rm --force` ends a wait too, and stop finds nothing to do."""
    handle = await node.engine.start(runner_spec(folder, synthetic_image))
    waiting = asyncio.create_task(node.engine.wait(handle))
    await asyncio.to_thread(node.docker.docker, "rm", "--force", handle.ref)
    told = await asyncio.wait_for(waiting, PATIENCE_S)
    assert told.code == -9
    await node.engine.stop(handle, grace_s=1)


async def test_a_crash_at_load_leaves_its_words(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """A runner that cannot begin ends with its code and its reason, and the slot starts again after that."""
    bad = runner_spec(folder, synthetic_image, options={"faults": [{"kind": "no such fault"}]})
    told = await ended(node.engine, await node.engine.start(bad))
    assert told.code == 2
    assert "no such fault" in told.tail
    assert await answers(await node.engine.start(runner_spec(folder, synthetic_image)))
    assert len(node.containers()) == 1, "the one that crashed is removed"


async def test_out_of_memory_is_the_kernels_word(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """A runner beyond its bound is killed by the kernel; the exit says so, and which setting to raise."""
    tight = runner_spec(folder, synthetic_image, resources=Resources(memory_bytes=24 * 2**20, shm_bytes=2**20))
    told = await ended(node.engine, await node.engine.start(tight))
    assert (told.code, told.oom_killed) == (-9, True)
    assert "memory_bytes" in told.why


async def test_a_restarted_node_finds_its_runners(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """The same containers, still running, with their fingerprint; those that ended are removed."""
    spec = runner_spec(folder, synthetic_image)
    handle = await node.engine.start(spec)
    dead = await node.engine.start(runner_spec(folder, synthetic_image, "slot-1"))
    assert await answers(handle)
    await asyncio.to_thread(node.docker.docker, "kill", dead.ref)
    again = node.again()
    found = await again.recover()
    assert found == [handle]
    assert found[0].fingerprint == spec.fingerprint
    assert node.containers() == [handle.ref]
    waiting = asyncio.create_task(again.wait(handle))
    await again.stop(handle, grace_s=5)
    assert (await asyncio.wait_for(waiting, PATIENCE_S)).code == 0
    assert node.containers() == [], "stop removes it"
    await again.close()


async def test_a_runner_ends_by_itself_when_nobody_asks(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """Its node never came back: it gives the GPU up, and what is left is removed by whoever comes."""
    resources = Resources(pids=256, shm_bytes=2**20, idle_exit_s=0.5)
    handle = await node.engine.start(runner_spec(folder, synthetic_image, resources=resources))
    told = await ended(node.engine, handle)
    assert told.code == 0
    assert "no request came" in told.tail
    assert await node.again().recover() == []
    assert node.containers() == []


async def test_an_image_that_was_built_again_is_not_adopted(
    node: NodeEngine, folder: Path, synthetic_image: str
) -> None:
    """A name that means another image by now: the runner is found, and fits no spec any more."""
    name = f"reelnet-test:{node.id[:12]}"
    await asyncio.to_thread(node.docker.docker, "tag", synthetic_image, name)
    handle = await node.engine.start(runner_spec(folder, name))
    try:
        assert [found.fingerprint for found in await node.engine.recover()] == [handle.fingerprint]
        base = await asyncio.to_thread(other_image, node.docker, name)
        assert [(found.ref, found.fingerprint) for found in await node.engine.recover()] == [(handle.ref, "")]
    finally:
        await asyncio.to_thread(node.docker.docker, "rmi", "--force", name)
    assert base != synthetic_image


def other_image(docker: TestEngine, name: str) -> str:
    """An empty image of that name; returns its id."""
    empty = bytes(10240)  # a tar without entries
    run = subprocess.run(docker.command("import", "-", name), input=empty, capture_output=True, check=True, timeout=60)
    return run.stdout.decode().strip()


async def test_nodes_leave_each_other_alone(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """A second node on this host, with slots of the same name, neither finds nor ends the first one's runners."""
    first = await node.engine.start(runner_spec(folder, synthetic_image))
    async with docker_node(node.docker) as other:
        assert await other.engine.recover() == []
        place = folder / "other"
        place.mkdir()
        second = await other.engine.start(runner_spec(place, synthetic_image))
        assert await answers(second)
        assert await answers(first)
    assert node.containers() == [first.ref]
    assert await answers(first)


async def test_a_leftover_of_the_slot_makes_room(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """A node that was killed in mid-start leaves a container that nobody knows; the slot's next start removes it."""
    first = await node.engine.start(runner_spec(folder, synthetic_image))
    second = await node.again().start(runner_spec(folder, synthetic_image))
    assert node.containers() == [second.ref]
    assert (await ended(node.engine, first)).code == -9
    assert await answers(second)


async def test_a_name_that_is_taken_is_told(node: NodeEngine, folder: Path, synthetic_image: str) -> None:
    """A container of somebody else's with the slot's name is left alone, and named in the error."""
    name = container_name(node.id, "slot-0")
    await asyncio.to_thread(node.docker.docker, "create", "--name", name, "--network=none", synthetic_image)
    try:
        with pytest.raises(EngineError, match="docker rm"):
            await node.engine.start(runner_spec(folder, synthetic_image))
    finally:
        await asyncio.to_thread(node.docker.docker, "rm", name)


async def test_runners_outlive_an_engine_with_live_restore(
    live: TestEngine, folder: Path, synthetic_image: str
) -> None:
    """While the engine is away the runner serves and wait goes on; after that handle and stop are good as before."""
    async with docker_node(live) as node:
        handle = await node.engine.start(runner_spec(folder, synthetic_image))
        assert await answers(handle)
        waiting = asyncio.create_task(node.engine.wait(handle))
        await asyncio.to_thread(live.stop)
        assert await answers(handle)
        with pytest.raises(EngineError, match="systemctl start docker"):
            await node.engine.fingerprint()
        await asyncio.to_thread(live.up, live_restore=True)
        assert [found.ref for found in await node.again().recover()] == [handle.ref]
        assert await answers(handle)
        assert not waiting.done()
        await node.engine.stop(handle, grace_s=5)
        told = await asyncio.wait_for(waiting, PATIENCE_S)
        assert (told.code, told.why) == (0, "")


async def test_stop_gives_an_engine_up_that_is_away(live: TestEngine, folder: Path, synthetic_image: str) -> None:
    """Nothing hangs, and what lives on is removed at the slot's next start."""
    async with docker_node(live) as node:
        handle = await node.engine.start(runner_spec(folder, synthetic_image))
        assert await answers(handle)
        await asyncio.to_thread(live.stop)
        async with asyncio.timeout(10):
            await node.engine.stop(handle, grace_s=1)
            assert await node.engine.logs(handle, 5) == ""
            with pytest.raises(EngineError, match="no Docker engine answers"):
                await node.engine.start(runner_spec(folder, synthetic_image))
        await asyncio.to_thread(live.up, live_restore=True)
        assert node.containers() == [handle.ref]
        second = await node.engine.start(runner_spec(folder, synthetic_image))
        assert node.containers() == [second.ref]
        assert await answers(second)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_an_engine_takes_its_containers_along(
    node: NodeEngine, folder: Path, synthetic_image: str, number: signal.Signals
) -> None:
    """Without live-restore wait returns once the engine is back, with that as reason; the slot starts again."""
    handle = await node.engine.start(runner_spec(folder, synthetic_image))
    assert await answers(handle)
    waiting = asyncio.create_task(node.engine.wait(handle))
    os.kill(node.docker.pid, number)
    await asyncio.to_thread(node.docker.restart)
    told = await asyncio.wait_for(waiting, NEWS_S)
    assert told.why == LOST
    await node.engine.stop(handle, grace_s=1)
    assert await answers(await node.engine.start(runner_spec(folder, synthetic_image)))


async def test_an_engine_that_hangs_holds_nobody(docker_engine: TestEngine, folder: Path, synthetic_image: str) -> None:
    """Each call has its bound: start fails, stop gives up, and the runner goes on meanwhile."""
    async with docker_node(docker_engine, DockerOptions(api_s=0.5)) as node:
        os.kill(docker_engine.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(10):
                with pytest.raises(EngineError, match="TimeoutError"):
                    await node.engine.start(runner_spec(folder, synthetic_image))
                await node.engine.stop(RunnerHandle("docker", "slot-0", "0" * 64, folder), grace_s=1)
        finally:
            os.kill(docker_engine.pid, signal.SIGCONT)


async def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """An engine that cannot write says so as an EngineError that names the disk."""
    need_engine()
    docker = TestEngine(tmp_path / "e")
    data = docker.folder / "data" / "docker"
    data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(data)], check=True, timeout=30)
    try:
        await asyncio.to_thread(docker.up)
        image = await asyncio.to_thread(other_image, docker, "empty:1")
        fill(data / "ballast")
        async with docker_node(docker) as node:
            with pytest.raises(EngineError, match="is full: free space"):
                await node.engine.start(runner_spec(tmp_path, image))
            (data / "ballast").unlink()
    finally:
        await asyncio.to_thread(docker.down, purge=True)
        subprocess.run(["umount", "--lazy", str(data)], check=False, capture_output=True, timeout=30)


def fill(path: Path) -> None:
    """Writes until nothing fits any more."""
    with path.open("wb", buffering=0) as ballast:
        while True:
            try:
                ballast.write(bytes(4096))
            except OSError:
                return
