"""The contract of a RunnerEngine: one suite, on the in-process engine of the tests and on the product's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from orchestrator.engine import EngineError, RunnerEngine, RunnerHandle, RunnerSpec
from orchestrator.process_engine import ProcessEngine
from orchestrator.runner_client import JobStream, RunnerClient, RunnerJob
from orchestrator.runner_events import RunnerDone
from reelnet.errors import PoisonError
from reelnet.jobs import Started
from reelnet.pipelines import TextToImage
from tests.fakes.pool import PATIENCE_S, InProcessEngine, until

ENGINES = [pytest.param(InProcessEngine, id="in-process"), pytest.param(ProcessEngine, id="process")]


@pytest.fixture(params=ENGINES)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[RunnerEngine]:
    """Each engine in turn; closed at the end, whatever the test did."""
    running: RunnerEngine = request.param()
    yield running
    await running.close()


def spec(folder: Path, slot: str = "slot-0", **options: Any) -> RunnerSpec:
    """A synthetic runner of that slot."""
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
    )


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


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a Unix socket lies below it."""
    return tmp_path_factory.mktemp("e")


async def test_it_says_what_it_is(engine: RunnerEngine) -> None:
    """A fingerprint names the engine."""
    facts = await engine.fingerprint()
    assert facts.name


async def test_a_started_runner_does_jobs(engine: RunnerEngine, folder: Path) -> None:
    """Start returns before the runner is ready; then it answers, says what it serves, and works."""
    client = await ready(await engine.start(spec(folder)))
    info = await client.info()
    assert set(info.schemas) == {"text-to-image", "image-to-image", "image-to-video", "upscale"}
    async with client.run(job(), stuck) as stream:
        events = await whole(stream)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], RunnerDone)
    assert events[-1].model_digest == info.digest
    await client.close()


async def test_wait_returns_when_the_runner_has_ended(engine: RunnerEngine, folder: Path) -> None:
    """Wait is pending while the runner lives, and returns after stop; waiting again returns at once."""
    handle = await engine.start(spec(folder))
    client = await ready(handle)
    waiting = asyncio.create_task(engine.wait(handle))
    assert (await client.health()).state == "READY"
    assert not waiting.done()
    await client.close()
    await engine.stop(handle, grace_s=5)
    ended = await asyncio.wait_for(waiting, PATIENCE_S)
    assert ended.code == 0, "a polite stop is a clean end"
    await asyncio.wait_for(engine.wait(handle), PATIENCE_S)


async def test_stop_may_be_called_again(engine: RunnerEngine, folder: Path) -> None:
    """Stopping what has ended is no error."""
    handle = await engine.start(spec(folder))
    await (await ready(handle)).close()
    await engine.stop(handle, grace_s=5)
    await engine.stop(handle, grace_s=5)


async def test_a_slot_can_be_started_again(engine: RunnerEngine, folder: Path) -> None:
    """A slot's next runner takes the same socket, after a stop."""
    for _ in range(2):
        handle = await engine.start(spec(folder))
        client = await ready(handle)
        await client.close()
        await engine.stop(handle, grace_s=5)


async def test_runners_do_not_disturb_each_other(engine: RunnerEngine, folder: Path) -> None:
    """Stopping one slot's runner leaves the other's."""
    first, second = [await engine.start(spec(folder, slot)) for slot in ("slot-0", "slot-1")]
    clients = [await ready(handle) for handle in (first, second)]
    await engine.stop(first, grace_s=5)
    assert (await clients[1].health()).state == "READY"
    for client in clients:
        await client.close()


async def test_a_job_that_hangs_does_not_outlive_its_stop(engine: RunnerEngine, folder: Path) -> None:
    """Stop ends a runner whose job ignores everything, by force after the grace."""
    handle = await engine.start(spec(folder))
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


async def test_leaving_a_job_stops_it(engine: RunnerEngine, folder: Path) -> None:
    """A job that is left early is over when the block is: the runner takes the next one at once."""
    client = await ready(await engine.start(spec(folder)))
    async with client.run(job("boat !slow 300", "left"), stuck) as stream:
        async for event in stream:
            if isinstance(event, Started):
                break
    async with client.run(job("boat", "next"), stuck) as stream:
        assert isinstance((await whole(stream))[-1], RunnerDone)
    await client.close()


async def test_a_missing_folder_is_an_engine_error(engine: RunnerEngine, folder: Path) -> None:
    """What the engine cannot do it says as EngineError, not as whatever its insides raise."""
    gone = spec(folder)
    gone.folder.rmdir()
    with pytest.raises(EngineError):
        await engine.start(gone)


async def test_close_leaves_nothing(engine: RunnerEngine, folder: Path) -> None:
    """After close no runner answers."""
    handle = await engine.start(spec(folder))
    client = await ready(handle)
    await engine.close()
    with pytest.raises((aiohttp.ClientError, OSError)):
        await client.health()
    await client.close()


async def test_nothing_is_recovered_that_was_not_left(engine: RunnerEngine) -> None:
    """A fresh engine finds no runner of an earlier start."""
    assert await engine.recover() == []


async def test_a_dead_runner_is_the_jobs_poison(folder: Path) -> None:
    """A runner process that dies in mid-job ends the job as `poison`, and wait tells its exit."""
    engine = ProcessEngine()
    handle = await engine.start(spec(folder))
    client = await ready(handle)
    with pytest.raises(PoisonError):
        await _run(client, "boat !die")
    ended = await engine.wait(handle)
    assert ended.code != 0
    await client.close()
    await engine.close()


async def test_the_logs_tail_tells_why_a_runner_ended(folder: Path) -> None:
    """A runner that cannot start leaves its last words in its exit."""
    engine = ProcessEngine()
    handle = await engine.start(spec(folder, faults="not a list"))
    ended = await asyncio.wait_for(engine.wait(handle), PATIENCE_S)
    assert ended.code == 2
    assert "faults" in ended.tail
    await engine.close()


async def test_the_process_is_gone_after_stop(folder: Path) -> None:
    """Stop returns when the process has ended."""
    engine = ProcessEngine()
    handle = await engine.start(spec(folder))
    pid = Path(f"/proc/{handle.ref}")
    await until(pid.exists, "the process is there")
    await engine.stop(handle, grace_s=5)
    assert not pid.exists()
    await engine.close()
