"""A node with containers through what befalls it: kills, stops, faults, full disks, and its engine's own life."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from orchestrator.runner_state import RunnerState
from tests.docker.engines import TestEngine
from tests.docker.inside import seen
from tests.docker.processes import PATIENCE_S, QUICK, NodeProcess, bars, client, node, slot_of
from tests.docker.test_gpu_mapping import ENVIRONMENT

BARS = "synthetic/bars"


@pytest.fixture
def home() -> Iterator[Path]:
    """A state folder with a path that is short enough for the slots' sockets."""
    with tempfile.TemporaryDirectory(prefix="life-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("deep", ["", "a-path-that-is-too-long-for-the-sockets-of-runners/"])
async def test_a_killed_node_finds_its_runners_again(
    home: Path, docker_engine: TestEngine, synthetic_image: str, deep: str
) -> None:
    """SIGKILL in mid-job: the containers go on and are taken over as they are; only who is not wanted any more ends."""
    at = home / deep
    at.mkdir(exist_ok=True)
    models = [bars(BARS), bars("synthetic/other"), bars("synthetic/gone")]
    limits = {**QUICK, "orphan_s": 0.2}
    async with node(at, docker_engine, synthetic_image, models=models, limits=limits) as n, client(at, n) as app:
        await n.until_ready()
        before, began = await n.containers(), await n.began()
        cut_off = app.long()
        await n.until(lambda s: slot_of(s).state == "busy" and slot_of(s).step, "the job works")
        await n.end(signal.SIGKILL)
        cut_off.cancel()
        assert await n.containers() == before, "they outlive their node"
        n.configure(models=models[:2])
        await n.start()
        status = await n.until_ready()
        gone = {slot for slot in before if "gone" in slot}
        assert {slot.slot for slot in status.slots} == before.keys() - gone
        await app.until_known()
        assert (await app.draw()).status_code == 200
        assert (await app.draw(model="synthetic/other")).status_code == 200
        async with asyncio.timeout(PATIENCE_S):
            while gone & (left := await n.containers()).keys() or (await n.left()).split() != list(left.values()):
                await asyncio.sleep(0.05)  # until no orphan is left, running or not: one that ended goes a moment later
        assert left == {slot: ref for slot, ref in before.items() if slot not in gone}
        assert await n.began() == {slot: at for slot, at in began.items() if slot not in gone}
        told = await n.metrics()
        assert "reelnet_node_cold_starts_total" in told.families()
        assert told.sum("reelnet_node_cold_starts_total") == 0
        assert all(slot.restarts == 0 for slot in status.slots)


async def test_two_nodes_do_not_touch_each_other(home: Path, docker_engine: TestEngine, synthetic_image: str) -> None:
    """With slots of the same names on one engine: at starts, kills, restarts and stops of the other."""
    async with node(home, docker_engine, synthetic_image, "first") as first, client(home, first) as app:
        await first.until_ready()
        ours = await first.containers()
        async with node(home, docker_engine, synthetic_image, "second") as second:
            await second.until_ready()
            theirs = await second.containers()
            assert theirs.keys() == ours.keys()
            await second.end(signal.SIGKILL)
            await second.start()
            await second.until_ready()
            assert await second.containers() == theirs
            await first.end(signal.SIGKILL)
            await first.start()
            await first.until_ready()
            assert await second.containers() == theirs
            assert await first.containers() == ours
        assert await first.containers() == ours, "the other one stopped"
        await app.until_known()
        assert (await app.draw()).status_code == 200
        assert slot_of(await first.status()).restarts == 0


async def test_a_runner_that_is_killed_or_hangs_is_replaced(
    home: Path, docker_engine: TestEngine, synthetic_image: str
) -> None:
    """The job of a killed one waits and is done; that of one that hangs fails as the node's; the reason can be read."""
    limits = {**QUICK, "restart_backoff_s": 1, "restart_backoff_max_s": 1, "stall_s": 1, "stall_factor": 2}
    async with node(home, docker_engine, synthetic_image, limits=limits) as n, client(home, n) as app:
        await n.until_ready()
        first = await n.containers()
        job = asyncio.create_task(app.draw("boat !slow 600 once", num_inference_steps=200))
        await n.until(lambda s: slot_of(s).state == "busy" and slot_of(s).step, "the job works")
        await n.ask("kill", *first.values())
        paused = await n.until(lambda s: slot_of(s).state == "backoff", "it rests")
        assert "killed by signal 9" in slot_of(paused).reason
        answer = await job
        assert answer.status_code == 200, answer.text
        assert answer.json()["job"]["attempts"] == 2
        await n.until_ready()
        second = await n.containers()
        assert second.values() != first.values()

        answer = await app.draw("boat !hang")
        assert (answer.status_code, answer.json()["error"]["class"]) == (500, "node"), answer.text
        assert "hung" in answer.text
        paused = await n.until(lambda s: slot_of(s).state == "backoff", "it rests")
        assert slot_of(paused).reason
        assert slot_of(await n.until_ready()).restarts == 2
        assert (await app.draw()).status_code == 200
        told = await n.metrics()
        assert told.sum("reelnet_node_runner_restarts_total", reason="killed") == 1
        assert told.sum("reelnet_node_runner_restarts_total", reason="stuck") == 1
        assert told.sum("reelnet_node_cold_starts_total") == 3


async def test_a_crash_loop_is_told_and_never_given_up(
    home: Path, docker_engine: TestEngine, synthetic_image: str
) -> None:
    """The other models work meanwhile, and a reload with the fault mended ends it."""
    bad = bars("synthetic/bad", options={"faults": [{"kind": "no such fault"}]})
    limits = {**QUICK, "crash_loop": 2}
    models = [bars(BARS), bad]
    async with node(home, docker_engine, synthetic_image, models=models, limits=limits) as n, client(home, n) as app:
        looping = await n.until(lambda s: slot_of(s, "synthetic/bad").restarts >= 3, "it is tried again and again")
        assert slot_of(looping, "synthetic/bad").state in {RunnerState.STARTING, RunnerState.BACKOFF}
        assert slot_of(looping, "synthetic/bad").reason.startswith("crash loop, ")
        assert "no such fault" in slot_of(looping, "synthetic/bad").reason
        assert "crash loop" in n.log
        assert (await app.draw()).status_code == 200
        n.configure(models=[bars(BARS), bars("synthetic/bad")])
        assert n.process
        n.process.send_signal(signal.SIGHUP)
        await n.until_ready()
        await app.until_known("synthetic/bad")
        assert (await app.draw(model="synthetic/bad")).status_code == 200


async def test_a_runner_out_of_memory_is_quarantined(
    home: Path, docker_engine: TestEngine, synthetic_image: str
) -> None:
    """The kernel's word is the reason; after so many it rests until the operator says otherwise."""
    docker = {"socket": str(docker_engine.socket), "shm_bytes": 2**20, "memory_bytes": 24 * 2**20}
    limits = {**QUICK, "quarantine_faults": 2}
    async with node(home, docker_engine, synthetic_image, docker=docker, limits=limits) as n:
        resting = await n.until(lambda s: slot_of(s).state == "quarantined", "it is given a rest")
        assert "memory_bytes" in slot_of(resting).reason, "what to raise"
        assert slot_of(resting).restarts == 2
        assert (await n.metrics()).sum("reelnet_node_runner_restarts_total", reason="memory") == 2
        assert await n.left() == "", "nothing of it is kept"
        await asyncio.to_thread(n.control.resume)
        await n.until(lambda s: slot_of(s).restarts == 4 and slot_of(s).state == "quarantined", "it is tried again")


@pytest.fixture
def tiny(home: Path) -> Iterator[Path]:
    """A state folder on a disk of its own, with little room."""
    disk = home / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=200", "tmpfs", str(disk)], check=True, timeout=30)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=30)


async def test_a_full_disk_takes_no_node_down(
    home: Path, tiny: Path, docker_engine: TestEngine, synthetic_image: str
) -> None:
    """Jobs and new slots that need room fail with that reason; once there is room again they go through."""
    models = [bars(BARS, options={"output_bytes": 1_500_000})]
    limits = {**QUICK, "spool_free_bytes": 0}  # so that the job gets as far as the disk
    large = {"width": 640, "height": 640}
    async with (
        node(home, docker_engine, synthetic_image, models=models, state=tiny, limits=limits) as n,
        client(home, n) as app,
    ):
        await n.until_ready()
        ballast = fill(tiny)
        answer = await app.draw(**large)
        assert (answer.status_code, answer.json()["error"]["class"]) == (503, "busy"), answer.text
        assert "spool is full" in answer.text
        assert list(tiny.glob("orchestrator/*/spool/*")) == [], "what was begun takes no room"
        n.configure(models=[*models, bars("synthetic/new")])
        assert "models: synthetic/new is new" in await asyncio.to_thread(n.control.reload)
        stuck = await n.until(lambda s: slot_of(s, "synthetic/new").reason != "not started", "it says why")
        assert "No space left" in slot_of(stuck, "synthetic/new").reason
        assert slot_of(stuck).state == "ready"
        for path in ballast:
            path.unlink()
        await n.until_ready()
        await app.until_known("synthetic/new")
        assert (await app.draw(**large)).status_code == 200
        assert (await app.draw(model="synthetic/new")).status_code == 200


def fill(folder: Path) -> list[Path]:
    """Takes all room of a disk, for bytes and for files; what was made for that."""
    made = []
    while True:
        path = folder / f"ballast-{len(made)}"
        try:
            with path.open("wb", buffering=0) as file:
                made.append(path)
                while True:
                    file.write(bytes(65536 if len(made) == 1 else 1))
        except OSError as error:
            full = error.errno == errno.ENOSPC
            if not path.exists():
                break
    assert full, "the disk is full, and nothing else"
    return made


@pytest.fixture
async def restarted(docker_engine: TestEngine) -> AsyncIterator[TestEngine]:
    """An engine that the test restarts; as the others expect it afterwards."""
    yield docker_engine
    await asyncio.to_thread(docker_engine.restart)


async def test_an_engine_that_is_restarted(home: Path, restarted: TestEngine, synthetic_image: str) -> None:
    """Without live-restore slots start anew, with that reason; with it jobs go on and nothing starts anew."""
    docker = restarted
    async with node(home, docker, synthetic_image) as n, client(home, n) as app:
        await n.until_ready()
        first = await n.containers()
        await asyncio.to_thread(docker.stop)
        await n.until(lambda s: slot_of(s).state == "backoff" and "Docker engine" in slot_of(s).reason, "it says why")
        await asyncio.to_thread(docker.up, live_restore=True)
        await n.until_ready()
        assert (await app.draw()).status_code == 200
        second = await n.containers()
        assert second.values() != first.values()
        assert (await n.metrics()).sum("reelnet_node_cold_starts_total") == 2
        restarts = slot_of(await n.status()).restarts

        job = asyncio.create_task(app.draw("boat !slow 4"))
        await n.until(lambda s: slot_of(s).state == "busy", "the job works")
        await asyncio.to_thread(docker.stop)
        assert (await job).status_code == 200
        assert (await app.draw()).status_code == 200, "a job that came while the engine was away"
        await asyncio.to_thread(docker.up, live_restore=True)
        assert await n.containers() == second
        assert slot_of(await n.status()).restarts == restarts
        await n.ask("kill", *second.values())
        await n.until(lambda s: slot_of(s).restarts == restarts + 1, "the engine that is back is heard")
        await n.until_ready()
        assert (await n.metrics()).sum("reelnet_node_runner_restarts_total", reason="killed") == 1


CARDS = tuple(f"GPU-{digit * 8}-{digit * 4}-{digit * 4}-{digit * 4}-{digit * 12}" for digit in "1234")


async def visible(n: NodeProcess) -> dict[str, set[str]]:
    """What the runners' processes have as NVIDIA_VISIBLE_DEVICES, and what was asked for them, by slot."""
    found = {}
    for slot, ref in (await n.containers()).items():
        environment = await asyncio.to_thread(seen, n.docker, ref, ENVIRONMENT)
        asked = json.loads(await n.ask("inspect", "--format", "{{json .HostConfig.DeviceRequests}}", ref))
        pairs = [text.partition("=") for text in environment]
        found[slot] = {value for name, _, value in pairs if name == "NVIDIA_VISIBLE_DEVICES"}
        found[slot] |= {gpu for request in asked for gpu in request["DeviceIDs"]}
    return found


async def said(n: NodeProcess) -> dict[str, set[str]]:
    """What the node says of which slot is on which GPU."""
    status = await n.until_ready()
    uuids = {device.name: device.uuid for device in status.devices}
    return {slot.slot: {str(uuids[slot.device])} for slot in status.slots}


async def test_each_slot_sees_its_gpu_alone(home: Path, docker_engine: TestEngine, synthetic_image: str) -> None:
    """With several cards and two nodes, from the node's list to the process: at the start, and after every restart."""
    models = [bars(BARS, replicas=2), bars("synthetic/pinned", device="cuda:1")]
    mine, theirs = ["cuda:0", "cuda:1"], [CARDS[2], CARDS[3][:8]]
    async with (
        node(home, docker_engine, synthetic_image, "first", CARDS, models=models, devices=mine) as first,
        node(home, docker_engine, synthetic_image, "second", CARDS, models=models[:1], devices=theirs) as second,
        client(home, first, second) as app,
    ):
        at_first, at_second = await said(first), await said(second)
        replicas, pinned = sorted(at_first)[:2], sorted(at_first)[2]
        assert [at_first[slot] for slot in replicas] in ([{CARDS[0]}, {CARDS[1]}], [{CARDS[1]}, {CARDS[0]}])
        assert at_first[pinned] == {CARDS[1]}
        assert set.union(*at_second.values()) == {CARDS[2], CARDS[3]}
        assert await visible(first) == at_first
        assert await visible(second) == at_second

        killed = (await first.containers())[replicas[0]]
        await first.ask("kill", killed)
        await first.until(lambda s: any(slot.restarts for slot in s.slots), "it is missed")
        assert await said(first) == await visible(first) == at_first
        assert killed not in (await first.containers()).values()

        before = await first.containers()
        await first.end(signal.SIGKILL)
        await first.start()
        assert await said(first) == await visible(first) == at_first
        assert await first.containers() == before
        assert await visible(second) == at_second
        await app.until_known(nodes=2)
        assert (await app.draw()).status_code == 200
