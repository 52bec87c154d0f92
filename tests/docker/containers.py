"""A runner in a container, reached over the socket that it shares with this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.docker.engines import HARDENED, TestEngine
from tests.fakes.runner import Answer, collect, parts

USER = 10001
"""The image's own."""
PATIENCE_S = 120.0
"""Longest wait for a model, a job or a state."""
SYNTHETIC = ("--env=REELNET_RUNNER_MODEL=synthetic/bars",)


@dataclass(frozen=True)
class Container:
    """A container with a runner, as the engine and as the runner's client see it."""

    engine: TestEngine
    id: str
    http: httpx.AsyncClient

    def inspect(self, form: str) -> str:
        """One value of its description, by a template of Docker's command."""
        return self.engine.docker("inspect", "--format", form, self.id)

    def run(self, *command: str) -> str:
        """What a command in it prints. Raises AssertionError when it fails."""
        return self.engine.docker("exec", self.id, *command)

    async def until(self, form: str, value: str) -> None:
        """Until `inspect` says so."""
        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(self.inspect, form) != value:
                await asyncio.sleep(0.1)  # between polls of the engine

    async def job(self, params: Mapping[str, Any], pipeline: str = "text-to-image", **inputs: bytes) -> Answer:
        """A job's whole answer. `inputs`: `image` or `video`, as a file."""
        async with self.http.stream("POST", "/jobs", files=parts(dict(params), pipeline, **inputs)) as response:
            assert response.status_code == 200, await response.aread()
            return await collect(response)


@contextlib.asynccontextmanager
async def running(engine: TestEngine, image: str, folder: Path, *options: str) -> AsyncIterator[Container]:
    """A hardened container of `image`, its socket in `folder`; removed at the end."""
    os.chown(folder, USER, USER)
    command = ("run", "--detach", *HARDENED, f"--volume={folder}:/run/reelnet", *options, image)
    identity = await asyncio.to_thread(engine.docker, *command)
    try:
        transport = httpx.AsyncHTTPTransport(uds=str(folder / "runner.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://runner", timeout=PATIENCE_S) as http:
            yield Container(engine, identity, http)
    finally:
        await asyncio.to_thread(engine.docker, "rm", "--force", "--volumes", identity)


async def until_state(container: Container, folder: Path, state: str) -> dict[str, Any]:
    """The first health in this state. Raises AssertionError when the runner ends in another one."""
    async with asyncio.timeout(PATIENCE_S):
        while not _listens(folder / "runner.sock"):
            await asyncio.sleep(0.05)  # between polls of another process
        while (health := (await container.http.get("/health")).json())["state"] != state:
            assert health["state"] not in ("SETUP_FAILED", "DEFUNCT"), health["reason"]
            await asyncio.sleep(0.05)
    return dict(health)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:  # httpx leaks the socket of a connection that is refused
        return probe.connect_ex(str(path)) == 0
