"""The doctor's own jobs: a tiny one that goes the way of every job, and pictures whose contents are known."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.devices import CPU, Device, inventory, needs_gpus
from orchestrator.engine import EngineError, Resources, RunnerEngine, RunnerHandle, RunnerSpec
from orchestrator.engines import choose_engine
from orchestrator.gpus import DriverError
from orchestrator.host import Host
from orchestrator.models_on_disk import fault_of
from orchestrator.runner_client import NO_ANSWER, RunnerClient, RunnerJob
from orchestrator.settings import SyntheticOptions
from reelnet.errors import ConfigError, NodeError, ReelnetError
from reelnet.jobs import Chunk
from reelnet.operating.doctor import Finding, bad, good
from reelnet.pipelines import pipeline_named

JOB_S, ANSWER_S, STOP_S, POLL_S = 100.0, 240.0, 5.0, 0.05
LONGEST_FOLDER_BYTES = 70
"""A socket's path has 107 bytes; a temporary folder and the socket's name need the rest."""
PIPELINE = "text-to-image"
PARAMS = {"prompt": "doctor", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 2}
SELF_TEST = "self-test"
"""The runner's backend that draws pictures whose contents are known, and is ready only when they are right."""
MEND = "mend the device, its driver or the runner's libraries; `runner self-test` shows each picture's fault"
CPU_ALONE = Device(CPU, None, None, "CPU")


@dataclass(frozen=True, slots=True)
class Errand:
    """What a runner of the doctor's is for: its backend, device and image, its time, and what is asked of it."""

    backend: str
    device: Device
    image: str | None
    limit_s: float
    ask: Callable[[RunnerClient], Awaitable[str]]
    title: str
    fix: str


def job(host: Host) -> Iterable[Finding]:
    """A synthetic runner, started by the engine that the node would take, does one job and is stopped."""
    fix = "see that the `runner` extra is installed whole"
    errand = Errand("synthetic", CPU_ALONE, host.settings.image, JOB_S, _draw, "a synthetic runner", fix)
    yield asyncio.run(_run(host, errand))


def known_answer(host: Host) -> Iterable[Finding]:
    """Where a model is served, a runner on the node's first device draws pictures that are known, and looks at them."""
    drawing = [model for model in host.settings.models if not isinstance(model.backend, SyntheticOptions)]
    if not drawing:
        yield good("not asked for: no model draws but synthetic ones")
        return
    served = [model for model in drawing if not fault_of(model, host.settings)]
    if not served:
        yield good("not asked for: no model can be served; see the lines of models")
        return
    try:
        device = _first_device(host)
    except (ConfigError, DriverError):
        yield good("not asked for: there is no device; see the lines of driver")
        return
    image, title = served[0].image or host.settings.image, f"a runner of the toy world on {device.title}"
    yield asyncio.run(_run(host, Errand(SELF_TEST, device, image, ANSWER_S, _answer, title, MEND)))


def _first_device(host: Host) -> Device:
    """Raises ConfigError and DriverError where there is none."""
    configured = host.settings.devices
    session = host.open_driver() if needs_gpus(configured) else None
    if session is None:
        return inventory(configured, ())[0]
    try:
        return inventory(configured, session.gpus)[0]
    finally:
        session.close()


async def _run(host: Host, errand: Errand) -> Finding:
    try:
        async with asyncio.timeout(errand.limit_s):
            engine = await choose_engine(host.settings, f"doctor-{secrets.token_hex(4)}")
            with tempfile.TemporaryDirectory(prefix="doctor-", dir=_place(host.folder)) as folder:
                return await _with_runner(engine, _spec(errand, Path(folder)), errand)
    except TimeoutError:
        return bad(
            f"{errand.title} did not do its work within {errand.limit_s:g} s",
            "see why the machine is that slow or loaded",
        )
    except EngineError as error:
        return bad(str(error), "mend the engine; see the lines of docker and image")
    except ReelnetError as error:
        return bad(f"{errand.title} failed: {error.message}", errand.fix)


def _place(state: Path) -> Path | None:
    """Where a runner's socket may lie: the state folder, which the engine sees, unless its path is too long."""
    return state if state.is_dir() and len(bytes(state)) <= LONGEST_FOLDER_BYTES else None


async def _with_runner(engine: RunnerEngine, spec: RunnerSpec, errand: Errand) -> Finding:
    started = asyncio.get_running_loop().time()
    try:
        facts = await engine.fingerprint()
        handle = await engine.start(spec)
        try:
            done = await _first_of_runner(engine, handle, errand)
        finally:
            await engine.stop(handle, STOP_S)
    finally:
        await engine.close()
    took_s = asyncio.get_running_loop().time() - started
    return good(f"engine {facts.name}: {errand.title} started, {done} and stopped in {took_s:.1f} s")


async def _first_of_runner(engine: RunnerEngine, handle: RunnerHandle, errand: Errand) -> str:
    """What was done; an error that holds the runner's last words when it ends before."""
    working = asyncio.ensure_future(_work(handle.socket, errand))
    ending = asyncio.ensure_future(engine.wait(handle))
    try:
        await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        ended = ending.result()
        raise EngineError(f"{errand.title} ended with exit code {ended.code}: {ended.why or ended.tail[-300:]}")
    finally:
        for task in (working, ending):
            task.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)


async def _work(socket: Path, errand: Errand) -> str:
    client = RunnerClient(socket, cancel_s=STOP_S)
    try:
        await _until_ready(client)
        return await errand.ask(client)
    finally:
        await client.close()


async def _draw(client: RunnerClient) -> str:
    params = pipeline_named(PIPELINE).parse(PARAMS).model_dump_json().encode()
    size = 0
    async with client.run(RunnerJob("doctor", 1, PIPELINE, params, JOB_S), on_stuck=lambda reason: None) as stream:
        async for event in stream:
            size += len(event.data) if isinstance(event, Chunk) else 0
    return f"drew {size} bytes"


async def _answer(client: RunnerClient) -> str:
    """A runner of this kind is ready only when each picture is right."""
    info = await client.info()
    return f"drew what it was asked with model {info.digest[:10]}"


async def _until_ready(client: RunnerClient) -> None:
    """Raises NodeError, with the runner's reason, for one that cannot be set up."""
    while True:
        try:
            health = await client.health()
        except NO_ANSWER:
            pass  # it does not listen yet
        else:
            if health.state == "READY":
                return
            if health.state == "SETUP_FAILED":
                raise NodeError(health.reason, code="setup_failed")
        await asyncio.sleep(POLL_S)


def _spec(errand: Errand, folder: Path) -> RunnerSpec:
    name = f"{errand.backend}/doctor"
    return RunnerSpec(
        slot="0-doctor-0",
        model_id=name,
        model=name,
        backend=errand.backend,
        device=errand.device.name,
        folder=folder,
        options={"unit_s": 0} if errand.backend == "synthetic" else {},
        gpu=errand.device.uuid,
        image=errand.image,
        resources=Resources(idle_exit_s=errand.limit_s),
    )
