"""What holds for every RunnerEngine: imported by the tests of the engines, which bring `engine` and `image`.

`real_engine` is an engine whose runners are processes of their own, which can die.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.engine import EngineError, Resources, RunnerEngine, RunnerHandle, RunnerSpec
from orchestrator.runner_client import JobStream, RunnerClient, RunnerJob
from orchestrator.runner_events import RunnerDone, RunnerStarted
from reelnet.errors import PoisonError
from reelnet.parameters import TextToImage
from reelnet.pipelines import PIPELINES
from tests.fakes.pool import PATIENCE_S

MakeSpec = Callable[..., RunnerSpec]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a Unix socket lies below it."""
    return tmp_path_factory.mktemp("e")


@pytest.fixture
def spec(folder: Path, image: str | None) -> MakeSpec:
    """Makes the spec of a synthetic runner of that slot, with these options of the backend."""

    def make(slot: str = "slot-0", **options: Any) -> RunnerSpec:
        place = folder / slot
        place.mkdir(exist_ok=True)
        return RunnerSpec(
            slot=slot,
            model_id="synthetic/bars",
            model="synthetic/bars",
            backend="synthetic",
            device="cpu/0",
            folder=place,
            options={"unit_s": 0, **options},
            image=image,
            resources=Resources(pids=256, shm_bytes=2**20),
        )

    return make


def job(prompt: str = "boat", job_id: str = "job") -> RunnerJob:
    """A small job."""
    params = TextToImage(prompt=prompt, width=64, height=64, num_inference_steps=2, seed=1)
    return RunnerJob(job_id, 1, "text-to-image", params.model_dump_json().encode(), PATIENCE_S)


async def ready(handle: RunnerHandle) -> RunnerClient:
    """A client of the runner, once it is ready."""
    client = RunnerClient(handle.socket, cancel_s=5)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                if (await client.health()).state == "READY":
                    return client
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.02)


async def whole(stream: JobStream) -> list[Any]:
    return [event async for event in stream]


def stuck(reason: str) -> None:
    raise AssertionError(reason)


async def test_it_says_what_it_is(engine: RunnerEngine) -> None:
    """A fingerprint names the engine."""
    facts = await engine.fingerprint()
    assert facts.name


async def test_a_started_runner_does_jobs(engine: RunnerEngine, spec: MakeSpec) -> None:
    """Start returns before the runner is ready; then it answers, says what it serves, and works."""
    client = await ready(await engine.start(spec()))
    info = await client.info()
    assert set(info.schemas) == set(PIPELINES)
    async with client.run(job(), stuck) as stream:
        events = await whole(stream)
    assert isinstance(events[0], RunnerStarted)
    assert isinstance(events[-1], RunnerDone)
    assert events[-1].model_digest == info.digest
    await client.close()


async def test_wait_returns_when_the_runner_has_ended(engine: RunnerEngine, spec: MakeSpec) -> None:
    """Wait is pending while the runner lives, and returns after stop; waiting again returns at once."""
    handle = await engine.start(spec())
    client = await ready(handle)
    waiting = asyncio.create_task(engine.wait(handle))
    assert (await client.health()).state == "READY"
    assert not waiting.done()
    await client.close()
    await engine.stop(handle, grace_s=5)
    ended = await asyncio.wait_for(waiting, PATIENCE_S)
    assert ended.code == 0, "a polite stop is a clean end"
    await asyncio.wait_for(engine.wait(handle), PATIENCE_S)


async def test_stop_may_be_called_again(engine: RunnerEngine, spec: MakeSpec) -> None:
    """Stopping what has ended is no error."""
    handle = await engine.start(spec())
    await (await ready(handle)).close()
    await engine.stop(handle, grace_s=5)
    await engine.stop(handle, grace_s=5)


async def test_a_slot_can_be_started_again(engine: RunnerEngine, spec: MakeSpec) -> None:
    """A slot's next runner takes the same socket, after a stop."""
    for _ in range(2):
        handle = await engine.start(spec())
        client = await ready(handle)
        await client.close()
        await engine.stop(handle, grace_s=5)


async def test_runners_do_not_disturb_each_other(engine: RunnerEngine, spec: MakeSpec) -> None:
    """Stopping one slot's runner leaves the other's."""
    first, second = [await engine.start(spec(slot)) for slot in ("slot-0", "slot-1")]
    clients = [await ready(handle) for handle in (first, second)]
    await engine.stop(first, grace_s=5)
    assert (await clients[1].health()).state == "READY"
    for client in clients:
        await client.close()


async def test_a_job_that_hangs_does_not_outlive_its_stop(engine: RunnerEngine, spec: MakeSpec) -> None:
    """Stop ends a runner whose job ignores everything, by force after the grace."""
    handle = await engine.start(spec())
    client = await ready(handle)
    running = asyncio.create_task(_run(client, "boat !hang"))
    async with asyncio.timeout(PATIENCE_S):
        while (await client.health()).state != "BUSY":
            await asyncio.sleep(0.02)
    async with asyncio.timeout(30):
        await engine.stop(handle, grace_s=1)
        await engine.wait(handle)
    with pytest.raises(Exception):  # noqa: B017  (how it ends is the runner's affair: that it ends is ours)
        await running
    await client.close()


async def _run(client: RunnerClient, prompt: str) -> list[Any]:
    async with client.run(job(prompt), lambda reason: None) as stream:
        return await whole(stream)


async def test_leaving_a_job_stops_it(engine: RunnerEngine, spec: MakeSpec) -> None:
    """A job that is left early is over when the block is: the runner takes the next one at once."""
    client = await ready(await engine.start(spec()))
    async with client.run(job("boat !slow 300", "left"), stuck) as stream:
        async for event in stream:
            if isinstance(event, RunnerStarted):
                break
    async with client.run(job("boat", "next"), stuck) as stream:
        assert isinstance((await whole(stream))[-1], RunnerDone)
    await client.close()


async def test_a_missing_folder_is_an_engine_error(engine: RunnerEngine, spec: MakeSpec) -> None:
    """What the engine cannot do it says as EngineError, not as whatever its insides raise."""
    gone = spec()
    gone.folder.rmdir()
    with pytest.raises(EngineError):
        await engine.start(gone)


async def test_close_leaves_nothing(engine: RunnerEngine, spec: MakeSpec) -> None:
    """After close no runner answers, and closing again is no error."""
    handle = await engine.start(spec())
    client = await ready(handle)
    await engine.close()
    await engine.close()
    with pytest.raises((aiohttp.ClientError, OSError)):
        await client.health()
    await client.close()


async def test_nothing_is_recovered_that_was_not_left(engine: RunnerEngine) -> None:
    """A fresh engine finds no runner of an earlier start."""
    assert await engine.recover() == []


async def test_a_dead_runner_is_the_jobs_poison(real_engine: RunnerEngine, spec: MakeSpec) -> None:
    """A runner process that dies in mid-job ends the job as `poison`, and wait tells its exit."""
    handle = await real_engine.start(spec())
    client = await ready(handle)
    with pytest.raises(PoisonError) as failed:
        await _run(client, "boat !die")
    assert failed.value.code == "runner_died", "a word of ours, no exception's name"
    ended = await real_engine.wait(handle)
    assert ended.code != 0
    await client.close()


async def test_the_logs_tail_tells_why_a_runner_ended(real_engine: RunnerEngine, spec: MakeSpec) -> None:
    """A runner that cannot start leaves its last words in its exit."""
    handle = await real_engine.start(spec(faults="not a list"))
    ended = await asyncio.wait_for(real_engine.wait(handle), PATIENCE_S)
    assert ended.code == 2
    assert "faults" in ended.tail


async def test_a_handle_tells_the_spec(engine: RunnerEngine, spec: MakeSpec) -> None:
    """A handle carries the fingerprint of what was started, and the place of its socket."""
    asked = spec()
    handle = await engine.start(asked)
    assert (handle.fingerprint, handle.socket.parent, handle.slot) == (asked.fingerprint, asked.folder, asked.slot)


async def test_logs_are_the_last_lines(real_engine: RunnerEngine, spec: MakeSpec) -> None:
    """As many as were asked for, the newest last; none for a runner that is gone."""
    handle = await real_engine.start(spec())
    await (await ready(handle)).close()
    said = (await real_engine.logs(handle, 1000)).splitlines()
    assert len(said) >= 2
    assert (await real_engine.logs(handle, 1)).splitlines() == said[-1:]


async def test_a_runner_can_be_told_its_settings(real_engine: RunnerEngine, spec: MakeSpec) -> None:
    """A flag reaches the runner: one that makes no sense is named when it ends."""
    handle = await real_engine.start(replace(spec(), flags={"png_level": "99"}))
    ended = await asyncio.wait_for(real_engine.wait(handle), PATIENCE_S)
    assert ended.code == 2
    assert "png_level" in ended.tail
