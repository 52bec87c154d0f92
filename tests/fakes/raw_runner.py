"""A runner that is a socket and answers with any bytes at all, beside true ones under the same node."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.engine import RunnerExit, RunnerHandle, RunnerSpec
from reelnet.pipelines import PIPELINES
from tests.fakes.pool import InProcessEngine

GOOD, BAD = "synthetic/bars", "synthetic/bad"
"""The true runner's model, and that of the socket."""
MODELS = [{"model": name, "backend": {"synthetic": {"unit_s": 0}}} for name in (GOOD, BAD)]
QUICK = {"limits": {"restart_backoff_s": 0.01, "restart_backoff_max_s": 0.05, "cancel_s": 0.5}}
OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
HEALTH = OK + b'{"state":"READY"}'
SAID: dict[str, Any] = {
    "digest": "d" * 64,
    "licence": {"id": "MIT", "commercial": "yes"},
    "pipelines": [{"pipeline": "text-to-image", "schema": PIPELINES["text-to-image"].schema}],
}
STARTED = OK + b'{"event":"started"}\n'


def said(**other: Any) -> bytes:
    """An answer to /info."""
    return OK + json.dumps(SAID | other).encode()


@dataclass
class RawEngine(InProcessEngine):
    """Runs the bad model's runner as a socket that answers each path as `answer` says, and others truly.

    `lives` counts the starts of the bad one.
    """

    answer: Callable[[bytes], bytes] = lambda path: HEALTH
    lives: int = 0
    servers: dict[str, asyncio.Server] = field(default_factory=dict)
    ended: dict[str, asyncio.Event] = field(default_factory=dict)

    async def start(self, spec: RunnerSpec) -> RunnerHandle:
        if spec.model_id != BAD:
            return await super().start(spec)
        self.lives += 1
        ref, socket = f"bad-{self.lives}", spec.folder / "runner.sock"
        socket.unlink(missing_ok=True)
        self.servers[ref] = await asyncio.start_unix_server(self._answer, socket)
        self.ended[ref] = asyncio.Event()
        return RunnerHandle("raw", spec.slot, ref, socket, spec.fingerprint)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            writer.write(self.answer((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]))
            await writer.drain()
        writer.close()

    async def wait(self, handle: RunnerHandle) -> RunnerExit:
        if handle.ref in self.ended:
            await self.ended[handle.ref].wait()
            return RunnerExit(0)
        return await super().wait(handle)

    async def stop(self, handle: RunnerHandle, grace_s: float) -> None:
        if server := self.servers.pop(handle.ref, None):
            server.close()
            self.ended[handle.ref].set()
        else:
            await super().stop(handle, grace_s)
