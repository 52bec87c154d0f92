"""An engine of scripted runners: each start plays the next life, over a true Unix socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from aiohttp import web

from orchestrator.engine import EngineError, EngineFacts, RunnerExit, RunnerHandle, RunnerSpec

INFO: dict[str, Any] = {
    "digest": "d" * 64,
    "pipelines": [{"pipeline": "text-to-image", "schema": "text-to-image/sd@1"}],
    "licence": {"id": "MIT", "commercial": "yes"},
    "vram_bytes": 8,
}


@dataclass
class Life:
    """What one runner does: whether it starts, what /health and /info say, and how it ends.

    `health` is answered entry by entry, the last one for ever; `exit_code` ends the runner by itself once that last
    one was answered.
    """

    start_error: str = ""
    health: list[Any] = field(default_factory=lambda: [{"state": "READY"}])
    info: Any = field(default_factory=lambda: dict(INFO))
    info_status: int = 200
    exit_code: int | None = None
    tail: str = ""


class ScriptedEngine:
    """Plays lives; the last one again and again. `starts` and `stops` count, `alive` holds what runs.

    `left` is what an earlier start is said to have left.
    """

    def __init__(self, lives: Iterable[Life]) -> None:
        listed = list(lives)
        self._lives: Iterator[Life] = chain(listed, repeat(listed[-1]))
        self._running: dict[str, _Runner] = {}
        self.starts = 0
        self.stops: list[str] = []
        self.left: list[RunnerHandle] = []

    @property
    def alive(self) -> set[str]:
        """The refs of runners that have not ended."""
        return {ref for ref, runner in self._running.items() if not runner.ended.is_set()}

    async def fingerprint(self) -> EngineFacts:
        return EngineFacts("scripted", "1")

    async def start(self, spec: RunnerSpec) -> RunnerHandle:
        self.starts += 1
        life = next(self._lives)
        if life.start_error:
            raise EngineError(life.start_error)
        ref = str(self.starts)
        handle = RunnerHandle("scripted", spec.slot, ref, spec.folder / "runner.sock", spec.fingerprint)
        self._running[handle.ref] = runner = _Runner(life)
        await runner.listen(str(handle.socket))
        return handle

    async def wait(self, handle: RunnerHandle) -> RunnerExit:
        return await self._running[handle.ref].wait()

    async def stop(self, handle: RunnerHandle, grace_s: float) -> None:
        self.stops.append(handle.ref)
        await self._running[handle.ref].end()

    async def recover(self) -> list[RunnerHandle]:
        return self.left

    async def logs(self, handle: RunnerHandle, lines: int) -> str:
        return ""

    async def close(self) -> None:
        for runner in self._running.values():
            await runner.end()

    def kill(self, code: int) -> None:
        """The newest runner ends now, in the middle of whatever it does."""
        self._running[str(self.starts)].die(code)


class _Runner:
    """One life under way."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._answers = iter(life.health)
        self._answer: Any = None
        self._exit = RunnerExit(0)
        self._web: web.AppRunner | None = None
        self._sock = socket.socket(socket.AF_UNIX)
        self.ended = asyncio.Event()

    async def listen(self, path: str) -> None:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/info", self._info)
        self._web = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
        await self._web.setup()
        Path(path).unlink(missing_ok=True)
        self._sock.bind(path)
        await web.SockSite(self._web, self._sock).start()

    async def wait(self) -> RunnerExit:
        await self.ended.wait()
        return self._exit

    async def end(self) -> None:
        self.ended.set()
        if self._web:
            await self._web.cleanup()
        self._sock.close()

    def die(self, code: int) -> None:
        self._exit = RunnerExit(code, self._life.tail)
        self.ended.set()

    async def _health(self, request: web.Request) -> web.Response:
        self._answer = next(self._answers, self._answer)
        if self._answer is self._life.health[-1] and self._life.exit_code is not None:
            self.die(self._life.exit_code)
        return web.json_response(self._answer)

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response(self._life.info, status=self._life.info_status)
