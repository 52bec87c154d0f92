"""Runners for tests: a backend that can be held at a step, a served app, and a reader of a job's stream."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from reelnet.warnings import JobWarning
from runner.backend import Backend, ModelInfo, Rendered, Reporter, RunnerJob, Sketch
from runner.process import unix_listener
from runner.settings import RunnerSettings
from runner.synthetic import SyntheticBackend
from runner.worker import State

PATIENCE_S = 20.0
"""Longest wait for something that has to happen."""


class GatedBackend:
    """Another backend, whose jobs stop before `step` of `stage` is reported until `open` is called.

    `held` is set while a job stands there. Later jobs pass.
    """

    def __init__(self, inner: Backend | None = None, step: int = 2, stage: str = "denoise") -> None:
        self.held = threading.Event()
        self._inner = inner or SyntheticBackend("synthetic/gated")
        self._at = (stage, step)
        self._opened = threading.Event()

    def open(self) -> None:
        """Lets the held job and all later ones go on."""
        self._opened.set()

    async def wait_held(self) -> None:
        """Until a job stands at the gate."""
        assert await asyncio.to_thread(self.held.wait, PATIENCE_S), "no job came to the gate"

    def load(self) -> ModelInfo:
        return self._inner.load()

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        return self._inner.run(job, _GatedReporter(self, report))

    def recover(self) -> None:
        self._inner.recover()

    def memory_bytes(self) -> int:
        return self._inner.memory_bytes()

    def close(self) -> None:
        self._opened.set()
        self._inner.close()

    def pass_gate(self, stage: str, step: int) -> None:
        """Waits if this is the gate's step."""
        if (stage, step) == self._at and not self._opened.is_set():
            self.held.set()
            assert self._opened.wait(PATIENCE_S), "nobody opened the gate"


@dataclass
class _GatedReporter:
    gate: GatedBackend
    inner: Reporter

    def step(self, stage: str, step: int, total: int) -> None:
        self.gate.pass_gate(stage, step)
        self.inner.step(stage, step, total)

    def sketch(self, sketch: Sketch) -> None:
        self.inner.sketch(sketch)

    def warn(self, warning: JobWarning) -> None:
        self.inner.warn(warning)


class BrokenBackend(SyntheticBackend):
    """Fails with the given exceptions: when it loads, when it runs, when it has to recover."""

    def __init__(
        self, *, load: Exception | None = None, run: Exception | None = None, recover: Exception | None = None
    ) -> None:
        super().__init__("synthetic/broken")
        self._errors = {"load": load, "run": run, "recover": recover}

    def load(self) -> ModelInfo:
        self._raise("load")
        return super().load()

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        self._raise("run")
        return super().run(job, report)

    def recover(self) -> None:
        self._raise("recover")

    def _raise(self, where: str) -> None:
        error = self._errors[where]
        if error is not None:
            raise error


@dataclass
class Answer:
    """A job's whole stream: its events in order, and the bytes of its outputs."""

    events: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    def named(self, name: str) -> list[dict[str, Any]]:
        """The events of one name."""
        return [event for event in self.events if event["event"] == name]

    def pixels(self, index: int = 0) -> np.ndarray[Any, Any]:
        """An output that is a picture."""
        with Image.open(io.BytesIO(self.outputs[index])) as picture:
            return np.asarray(picture.convert("RGB")).astype(int)


async def events_of(response: httpx.Response) -> AsyncIterator[tuple[dict[str, Any], bytes]]:
    """The events of a stream as they come, each with the raw bytes behind it."""
    buffer, pieces = b"", response.aiter_raw()

    async def more(least: int) -> bool:
        nonlocal buffer
        while len(buffer) < least:
            piece = await anext(pieces, None)
            if piece is None:
                return False
            buffer += piece
        return True

    while await more(1):
        while b"\n" not in buffer:
            assert await more(len(buffer) + 1), "the stream broke in a line"
        line, buffer = buffer.split(b"\n", 1)
        event = json.loads(line)
        size = event["size"] if event["event"] in ("chunk", "preview") else 0
        assert await more(size), "the stream broke in a chunk"
        data, buffer = buffer[:size], buffer[size:]
        yield event, data


async def collect(response: httpx.Response) -> Answer:
    """The whole stream of a response."""
    answer = Answer()
    async for event, data in events_of(response):
        answer.events.append(event)
        if event["event"] == "output":
            answer.outputs.append(b"")
        if event["event"] == "preview":
            answer.previews.append(data)
        elif data:
            answer.outputs[-1] += data
    return answer


@dataclass
class RunnerClient:
    """Talks to one served runner."""

    http: httpx.AsyncClient
    app: FastAPI

    async def health(self) -> dict[str, Any]:
        response = await self.http.get("/health")
        assert response.status_code == 200
        return dict(response.json())

    async def until(self, *states: State) -> dict[str, Any]:
        """The first health in one of these states; asks again until then."""
        async with asyncio.timeout(PATIENCE_S):
            pause_s = 0.005
            while (health := await self.health())["state"] not in states:
                await asyncio.sleep(pause_s)  # a poll over HTTP, as an orchestrator's; a model loads beside it
                pause_s = min(pause_s * 1.5, 0.1)
        return health

    def stream(self, **order: Any) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        """Posts a job; its response as it comes."""
        return self.http.stream("POST", "/jobs", files=parts(**order))

    async def run(self, **order: Any) -> Answer:
        """Posts a job; its whole answer."""
        async with self.stream(**order) as response:
            assert response.status_code == 200, await response.aread()
            return await collect(response)


def parts(
    params: dict[str, Any],
    pipeline: str = "text-to-image",
    image: bytes | None = None,
    job_id: str = "job-1",
    video: bytes | None = None,
    **order: Any,
) -> list[tuple[str, tuple[str | None, bytes, str]]]:
    """The multipart form of a job."""
    body = {"job_id": job_id, "attempt": 1, "pipeline": pipeline, "params": params, "deadline_s": 60, **order}
    form: list[tuple[str, tuple[str | None, bytes, str]]] = [
        ("job", (None, json.dumps(body).encode(), "application/json"))
    ]
    if image is not None:
        form.append(("image", ("image.png", image, "image/png")))
    if video is not None:
        form.append(("video", ("clip.mp4", video, "video/mp4")))
    return form


@contextlib.asynccontextmanager
async def serving(app: FastAPI, folder: Path) -> AsyncIterator[RunnerClient]:
    """The app behind a true server on a Unix socket, in this event loop."""
    path = folder / "runner.sock"
    config = uvicorn.Config(app, http="httptools", ws="none", log_config=None, timeout_graceful_shutdown=5)
    with unix_listener(path) as listener:
        server = _InProcess(config)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve([listener]), name="server")
            transport = httpx.AsyncHTTPTransport(uds=str(path))
            async with httpx.AsyncClient(transport=transport, base_url="http://runner", timeout=PATIENCE_S) as http:
                yield RunnerClient(http, app)
            app.state.worker.cancel_all()
            server.should_exit = True


class _InProcess(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def settings(**values: Any) -> RunnerSettings:
    """Settings of a synthetic runner that stops quickly."""
    return RunnerSettings(**{"model": "synthetic/bars", "backend": "synthetic", "stop_timeout_s": 5.0} | values)


def picture(width: int = 96, height: int = 64, seed: int = 0) -> bytes:
    """A PNG of smooth colours that depend on the seed."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (4, 6, 3), np.uint8))
    out = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()
