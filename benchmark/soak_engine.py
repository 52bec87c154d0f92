"""What a soak's runners are: processes of their nodes, or containers in a Docker engine of the soak's own."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmark.local_pool import Member
from benchmark.processes import family
from reelnet.errors import StartError, printable

SCRIPTS = Path(__file__).parents[1] / "scripts"
PROGRAMS = ("dockerd", "containerd", "runc", "docker")
NODE_LABEL = "reelnet.node"
"""The label of a runner's container that has its node's id: see docs/operate.md."""
ENGINE_S, IMAGE_S, DOCKER_S = 200, 1500, 60
"""Seconds that starting an engine, building an image, and one call of Docker's command may take."""
OUTPUT_CHARS = 2000


class SkippedError(Exception):
    """The soak cannot be done here; the text says why."""


class Runners(Protocol):
    """The runners of a soak, whatever they are."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a node is told of its engine."""

    async def kill_one(self, node: Member, rng: random.Random) -> bool:
        """Ends one of a node's runners by SIGKILL; whether there was one."""

    async def left(self, nodes: Sequence[Member]) -> list[str]:
        """What has outlived these nodes, of what no process table knows."""


class ProcessRunners:
    """Subprocesses of their nodes."""

    settings: Mapping[str, Any] = {"engine": "process"}

    async def kill_one(self, node: Member, rng: random.Random) -> bool:
        pids = sorted(process.pid for process in family([node.pid]) if process.pid != node.pid)
        if pids:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(pids), signal.SIGKILL)
        return bool(pids)

    async def left(self, nodes: Sequence[Member]) -> list[str]:
        return []  # the pool looks for processes itself


@dataclass(frozen=True, slots=True)
class ContainerRunners:
    """Containers of `image` in the engine behind `socket`."""

    socket: Path
    image: str

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"engine": "docker", "image": self.image, "docker": {"socket": str(self.socket)}}

    async def kill_one(self, node: Member, rng: random.Random) -> bool:
        containers = sorted(await self._containers(node, "--filter", "status=running"))
        if containers:
            with suppress(StartError):  # it may have ended in this moment
                await self._docker("kill", "--signal", "KILL", rng.choice(containers))
        return bool(containers)

    async def left(self, nodes: Sequence[Member]) -> list[str]:
        return [name for node in nodes for name in await self._containers(node, "--all")]

    async def _containers(self, node: Member, *which: str) -> list[str]:
        return (await self._docker("ps", "--quiet", *which, "--filter", f"label={NODE_LABEL}={node.node_id}")).split()

    async def _docker(self, *words: str) -> str:
        return await _output(["docker", "--host", f"unix://{self.socket}", *words], DOCKER_S)


@asynccontextmanager
async def containers(folder: Path, image: str | None) -> AsyncIterator[ContainerRunners]:
    """Runners in an engine below `folder`, of its own synthetic image if none is named, for the length of the block.

    Images stay in the folder. Raises SkippedError where no engine can be had, StartError when it does not start.
    """
    if os.geteuid() != 0:
        raise SkippedError("a Docker engine of its own needs root")
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        raise SkippedError(f"{', '.join(missing)} missing; install Docker (Debian: apt-get install docker.io)")
    engine = str(SCRIPTS / "engine")
    try:
        socket = Path((await _output([engine, "up", str(folder)], ENGINE_S)).strip())
        if image is None:
            built = await _output([str(SCRIPTS / "image"), "synthetic", "--socket", str(socket)], IMAGE_S)
            image = built.split()[1]
        yield ContainerRunners(socket, image)
    finally:
        await _output([engine, "down", str(folder)], ENGINE_S)


async def _output(command: Sequence[str], limit_s: float) -> str:
    """What a command prints. Raises StartError when it fails, or takes longer."""
    with tempfile.TemporaryFile() as out:  # a pipe would stay open as long as an engine that inherits it
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=out, stderr=STDOUT)
        try:
            async with asyncio.timeout(limit_s):
                await process.wait()
        except TimeoutError:
            raise StartError(f"{command[0]}: not done after {limit_s:g} s") from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        out.seek(0)
        text = out.read().decode("utf-8", "replace")
    if process.returncode != 0:
        raise StartError(f"{' '.join(command[:2])}: exit code {process.returncode}: {printable(text, OUTPUT_CHARS)}")
    return text
