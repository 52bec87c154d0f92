"""A pool in one process: real HTTP, gRPC and HTTP again, with runners that live in this event loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from broadcaster.app import RunningBroadcaster
from broadcaster.app import serve as serve_broadcaster
from broadcaster.settings import BroadcasterSettings
from orchestrator.app import RunningNode
from orchestrator.app import serve as serve_node
from orchestrator.engine import EngineError, EngineFacts, RunnerEngine, RunnerExit, RunnerHandle, RunnerSpec
from orchestrator.settings import OrchestratorSettings
from runner.app import build, make_backend
from runner.backend import Backend, ModelInfo, Rendered, Reporter, RunnerJob
from runner.process import unix_listener
from runner.settings import RunnerSettings
from runner.worker import Worker

PATIENCE_S = 120.0
"""Longest wait for something that has to happen."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class _LoadsAlone:
    """A backend that loads while no other one in this process does: model libraries switch global state then."""

    _loading = threading.Lock()

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def load(self) -> ModelInfo:
        with self._loading:
            return self._inner.load()

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        return self._inner.run(job, report)

    def recover(self) -> None:
        self._inner.recover()

    def memory_bytes(self) -> int:
        return self._inner.memory_bytes()

    def close(self) -> None:
        self._inner.close()


@dataclass
class _Life:
    """One started runner: its server, its worker, and the task that ends with it."""

    server: _Server
    worker: Worker
    task: asyncio.Task[None]


@dataclass
class InProcessEngine:
    """Runners as applications in this event loop, each behind a true server on its Unix socket.

    `backend` makes a runner's backend; the default is the product's own. `clock` gives the seconds of its jobs.
    `workers` are the runners' insides by slot.
    """

    backend: Callable[[RunnerSpec, RunnerSettings], Backend] = lambda spec, settings: make_backend(settings)
    runner: dict[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    workers: dict[str, Worker] = field(default_factory=dict)
    starts: int = 0
    _lives: dict[str, _Life] = field(default_factory=dict)

    async def fingerprint(self) -> EngineFacts:
        return EngineFacts("in-process", "1")

    async def start(self, spec: RunnerSpec) -> RunnerHandle:
        if not spec.folder.is_dir():
            raise EngineError(f"{spec.folder} is missing")
        settings = runner_settings(spec, **self.runner)
        app = build(settings, _LoadsAlone(self.backend(spec, settings)), self.clock)
        socket = spec.folder / "runner.sock"
        config = uvicorn.Config(
            app, http="httptools", ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=2
        )
        server = _Server(config)
        ready = asyncio.Event()
        self.starts += 1
        ref = f"{spec.slot}-{self.starts}"
        task = asyncio.create_task(self._serve(server, socket, ready), name=f"runner:{ref}")
        await ready.wait()
        self.workers[spec.slot] = app.state.worker
        self._lives[ref] = _Life(server, app.state.worker, task)
        return RunnerHandle("in-process", spec.slot, ref, socket, spec.fingerprint)

    async def _serve(self, server: _Server, socket: Path, ready: asyncio.Event) -> None:
        with unix_listener(socket) as listener:
            ready.set()
            await server.serve([listener])

    async def wait(self, handle: RunnerHandle) -> RunnerExit:
        if handle.ref in self._lives:
            await asyncio.wait([self._lives[handle.ref].task])
        return RunnerExit(0)

    async def stop(self, handle: RunnerHandle, grace_s: float) -> None:
        life = self._lives.pop(handle.ref, None)
        if life is None:
            return
        life.worker.cancel_all()
        life.server.should_exit = True
        await asyncio.wait([life.task], timeout=grace_s)
        await life.worker.stop(grace_s)  # by force: closing the backend ends a job that ignores everything
        await asyncio.wait([life.task])

    async def recover(self) -> list[RunnerHandle]:
        return []

    async def logs(self, handle: RunnerHandle, lines: int) -> str:
        return ""

    async def close(self) -> None:
        for ref, life in list(self._lives.items()):
            await self.stop(RunnerHandle("in-process", "", ref, Path()), 5)
            assert life.task.done()


def runner_settings(spec: RunnerSpec, **more: Any) -> RunnerSettings:
    """What the process engine's command line says, as settings."""
    values: dict[str, Any] = {
        "model": spec.model,
        "model_id": spec.model_id,
        "backend": spec.backend,
        "stop_timeout_s": 3.0,
    }
    if spec.pipelines:
        values["pipelines"] = spec.pipelines
    if spec.backend == "synthetic":
        values["synthetic"] = dict(spec.options)
    return RunnerSettings(**values | more)


@dataclass
class Pool:
    """A broadcaster and its nodes, all in this process."""

    http: httpx.AsyncClient
    broadcaster: RunningBroadcaster
    nodes: list[RunningNode]

    async def job(
        self, pipeline: str, params: dict[str, Any], image: bytes | None = None, name: str = "image"
    ) -> httpx.Response:
        """Posts a job as an app does: JSON, or multipart with the picture, or with the clip as `name` says."""
        if image is None:
            return await self.http.post(f"/{pipeline}", json=params)
        fields = {key: str(value) for key, value in params.items()}
        return await self.http.post(
            f"/{pipeline}", data=fields, files={name: ("file", image, "application/octet-stream")}
        )

    async def outputs(self, answer: httpx.Response) -> list[bytes]:
        """The media of a successful answer, fetched by their links."""
        assert answer.status_code == 200, answer.text
        fetched = [await self.http.get(image["url"]) for image in answer.json()["images"]]
        assert all(f.status_code == 200 for f in fetched)
        return [f.content for f in fetched]

    def slot(self, node: int = 0) -> Any:
        """The first slot of a node."""
        return self.nodes[node].node.table.slots[0]


async def until(condition: Callable[[], Any], what: str) -> None:
    """Returns when `condition` holds; fails the test when it does not within the patience."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


@contextlib.asynccontextmanager
async def running_node(
    settings: OrchestratorSettings, engine: RunnerEngine | None = None
) -> AsyncIterator[RunningNode]:
    """A node that serves; drained at the end."""
    stopping, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_node(settings, stopping, engine=engine, started=started.set_result))
    try:
        await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await task
        yield started.result()
    finally:
        stopping.set()
        await task


@contextlib.asynccontextmanager
async def running_broadcaster(settings: BroadcasterSettings) -> AsyncIterator[RunningBroadcaster]:
    """A broadcaster that serves; drained at the end."""
    stopping, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve_broadcaster(settings, stopping, started=started.set_result))
    try:
        await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await task
        yield started.result()
    finally:
        stopping.set()
        await task


@dataclass
class PoolPlan:
    """What a test's pool looks like. `models` as in orchestrator.yaml; one engine for each node."""

    home: Path
    engines: list[RunnerEngine]
    models: list[dict[str, Any]] = field(
        default_factory=lambda: [{"model": "synthetic/bars", "backend": {"synthetic": {"unit_s": 0}}}]
    )
    node: dict[str, Any] = field(default_factory=dict)
    broadcaster: dict[str, Any] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def running_pool(plan: PoolPlan) -> AsyncIterator[Pool]:
    """The pool, once the broadcaster knows every node's models."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(running_node(node_settings(plan, i), engine))
            for i, engine in enumerate(plan.engines)
        ]
        settings = broadcaster_settings(plan.home, [n.address for n in nodes], **plan.broadcaster)
        broadcaster = await stack.enter_async_context(running_broadcaster(settings))
        await ready(broadcaster, len(nodes), len(plan.models))
        http = httpx.AsyncClient(base_url=broadcaster.url, timeout=PATIENCE_S)
        yield Pool(await stack.enter_async_context(http), broadcaster, nodes)


async def ready(broadcaster: RunningBroadcaster, nodes: int, models: int = 1) -> None:
    """Until every node serves every model."""

    def complete() -> bool:
        offers = broadcaster.registry.offers()
        return len({model for _, model in offers}) == models and all(count == nodes for count in offers.values())

    await until(complete, "every node serves every model")


def node_settings(plan: PoolPlan, index: int) -> OrchestratorSettings:
    """A node's settings: free ports, its own state."""
    values = {
        "name": f"node-{index + 1}",
        "home": plan.home,
        "grpc": {"port": 0},
        "metrics": {"port": 0},
        "models": plan.models,
        "devices": ["cpu"],
        **plan.node,
    }
    return OrchestratorSettings.model_validate(values)


def broadcaster_settings(home: Path, addresses: list[str], **more: Any) -> BroadcasterSettings:
    """A broadcaster's settings: free ports, its own state, no chance in the choice of nodes."""
    values = {
        "home": home,
        "http": {"port": 0},
        "metrics": {"port": 0},
        "orchestrators": addresses,
        "selection": {"exploration": 0},
        **more,
    }
    return BroadcasterSettings.model_validate(values)


async def followed(answer: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The events of an answer as they come."""
    name = ""
    async for line in answer.aiter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


def sse_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a server-sent stream."""
    events = []
    for block in text.strip().split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            events.append((lines["event"], json.loads(lines["data"])))
    return events
