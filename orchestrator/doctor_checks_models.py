"""The doctor's look at the models, and a tiny job that goes the way of every job."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from orchestrator.doctor_checks_engine import docker, driver, image, toolkit
from orchestrator.doctor_checks_host import memory
from orchestrator.engine import EngineError, Resources, RunnerEngine, RunnerHandle, RunnerSpec
from orchestrator.engines import choose_engine
from orchestrator.host import Host
from orchestrator.models_on_disk import folder_of, judge
from orchestrator.runner_client import NO_ANSWER, RunnerClient, RunnerJob
from orchestrator.settings import ModelSettings
from reelnet.errors import ReelnetError
from reelnet.jobs import Chunk
from reelnet.operating.doctor import Check, Finding, bad, good, poor
from reelnet.operating.machine_checks import clock, key, ports, python, state
from reelnet.pipelines import pipeline_named

GIB = 2**30
JOB_S, STOP_S, POLL_S = 100.0, 5.0, 0.05
LONGEST_FOLDER_BYTES = 70
"""A socket's path has 107 bytes; a temporary folder and the socket's name need the rest."""
PIPELINE = "text-to-image"
PARAMS = {"prompt": "doctor", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 2}


def weights(host: Host) -> Iterable[Finding]:
    """Each configured model: its folder, its format, its size."""
    if not host.settings.models:
        yield poor("no models are configured: the node would serve nothing", "name one under `models`")
    for model in host.settings.models:
        yield _weights(model, host)


def job(host: Host) -> Iterable[Finding]:
    """A synthetic runner, started by the engine that the node would take, does one job and is stopped."""
    yield asyncio.run(_job(host))


CHECKS = (
    Check("python", python, 5),
    Check("state", state, 10),
    Check("key", key, 5),
    Check("memory", memory, 5),
    Check("ports", ports, 10),
    Check("clock", clock, 10),
    Check("driver", driver, 30),
    Check("docker", docker, 30),
    Check("image", image, 30),
    Check("toolkit", toolkit, 5),
    Check("models", weights, 60),
    Check("tiny job", job, JOB_S + 20),
)
"""Everything that the doctor looks at, in the order in which a fault explains the next ones."""


def _weights(model: ModelSettings, host: Host) -> Finding:
    folder = folder_of(model, host.settings)
    if folder is None:
        return good(f"{model.model_id}: synthetic, needs no weights")
    judged = judge(folder)
    if judged.fault or judged.found is None:
        return bad(f"{model.model_id}: {judged.fault}", judged.mend)
    found = judged.found
    return good(f"{model.model_id}: {found.class_name}, {found.weight_bytes / GIB:.2f} GiB of safetensors")


async def _job(host: Host) -> Finding:
    try:
        async with asyncio.timeout(JOB_S):
            engine = await choose_engine(host.settings, f"doctor-{secrets.token_hex(4)}")
            with tempfile.TemporaryDirectory(prefix="doctor-", dir=_place(host.folder)) as folder:
                return await _with_runner(engine, Path(folder), host.settings.image)
    except TimeoutError:
        return bad(f"a synthetic runner did no job within {JOB_S:g} s", "see why the machine is that slow or loaded")
    except EngineError as error:
        return bad(str(error), "mend the engine; see the lines of docker and image")
    except ReelnetError as error:
        return bad(
            f"a synthetic runner failed its job: {error.message}", "see that the `runner` extra is installed whole"
        )


def _place(state: Path) -> Path | None:
    """Where a runner's socket may lie: the state folder, which the engine sees, unless its path is too long."""
    return state if state.is_dir() and len(bytes(state)) <= LONGEST_FOLDER_BYTES else None


async def _with_runner(engine: RunnerEngine, folder: Path, image: str | None) -> Finding:
    started = asyncio.get_running_loop().time()
    try:
        facts = await engine.fingerprint()
        handle = await engine.start(_spec(folder, image))
        try:
            size = await _first_of_runner(engine, handle)
        finally:
            await engine.stop(handle, STOP_S)
    finally:
        await engine.close()
    took_s = asyncio.get_running_loop().time() - started
    return good(f"engine {facts.name}: a synthetic runner started, drew {size} bytes and stopped in {took_s:.1f} s")


async def _first_of_runner(engine: RunnerEngine, handle: RunnerHandle) -> int:
    """The job's bytes; an error that holds the runner's last words when it ends before."""
    drawing = asyncio.ensure_future(_draw(handle.socket))
    ending = asyncio.ensure_future(engine.wait(handle))
    try:
        await asyncio.wait([drawing, ending], return_when=asyncio.FIRST_COMPLETED)
        if drawing.done():
            return drawing.result()
        ended = ending.result()
        raise EngineError(f"a synthetic runner ended with exit code {ended.code}: {ended.why or ended.tail[-300:]}")
    finally:
        for task in (drawing, ending):
            task.cancel()
        await asyncio.gather(drawing, ending, return_exceptions=True)


async def _draw(socket: Path) -> int:
    client = RunnerClient(socket, cancel_s=STOP_S)
    try:
        await _until_ready(client)
        params = pipeline_named(PIPELINE).parse(PARAMS).model_dump_json().encode()
        size = 0
        async with client.run(RunnerJob("doctor", 1, PIPELINE, params, JOB_S), on_stuck=lambda reason: None) as stream:
            async for event in stream:
                size += len(event.data) if isinstance(event, Chunk) else 0
        return size
    finally:
        await client.close()


async def _until_ready(client: RunnerClient) -> None:
    while True:
        try:
            if (await client.health()).state == "READY":
                return
        except NO_ANSWER:
            pass  # it does not listen yet
        await asyncio.sleep(POLL_S)


def _spec(folder: Path, image: str | None) -> RunnerSpec:
    return RunnerSpec(
        slot="0-doctor-0",
        model_id="synthetic/doctor",
        model="synthetic/doctor",
        backend="synthetic",
        device="cpu",
        folder=folder,
        options={"unit_s": 0},
        image=image,
        resources=Resources(idle_exit_s=JOB_S),
    )
