"""Where honest and hostile peers meet: a pool of real processes, and a site with two runners, each with attackers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.client import BroadcasterClient
from benchmark.local_pool import LocalPool, PoolPlan
from tests.hostile.honest import JOB
from tests.hostile.peers import APP, BROADCASTER, NODE, RUNNER

ANSWER_S = 60.0
END_S = 20.0
POLL_S = 0.2
QUEUE = 64
LINE_BYTES = 2**20


class EndedError(AssertionError):
    """A process ended by itself, or does not answer."""


@dataclass
class Peers:
    """A process of `tests.hostile.peers`. `facts` are its first words, once it is `ready`."""

    process: Process
    log: Path
    facts: dict[str, Any] = field(default_factory=dict)

    async def ready(self) -> None:
        """Until it holds its peers. Raises EndedError."""
        self.facts = await _said(self.process, self.log)

    async def ask(self, *command: str) -> dict[str, int]:
        """What it has done so far, once it has obeyed. Raises EndedError."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        return await _said(self.process, self.log)


@dataclass(frozen=True)
class Place:
    """Where one kind of hostile peer does its harm: the app's URL, who is attacked, by which process."""

    kind: str
    url: str
    target: str
    peers: Peers

    @contextlib.asynccontextmanager
    async def under_attack(self) -> AsyncIterator[None]:
        """The harm goes on until the block ends."""
        await self.peers.ask("begin", self.kind, self.target)
        try:
            yield
        finally:
            await self.peers.ask("end")
            if self.kind == NODE:
                await self._forgotten()

    async def _forgotten(self) -> None:
        """Until the broadcaster has noticed that hostile nodes hung up, and gives them no job any more."""
        hostile = {address.partition("#")[2] for address in self.peers.facts["nodes"]}
        offer = JOB.pipeline, JOB.model
        async with BroadcasterClient(self.url) as client, asyncio.timeout(ANSWER_S):
            while any(offer in offers for node, offers in (await client.served(ANSWER_S)).items() if node in hostile):
                await asyncio.sleep(POLL_S)

    async def harm(self) -> dict[str, int]:
        """What was done in the latest attack, by act."""
        return await self.peers.ask("count")


@dataclass(frozen=True)
class Meeting:
    """All places by kind, and the logs of the processes that are not hostile."""

    places: dict[str, Place]
    logs: list[Path]
    pool: LocalPool

    def check_alive(self) -> None:
        """Raises EndedError for a component that has ended."""
        for member in self.pool.members:
            if not Path(f"/proc/{member.pid}").exists():
                raise EndedError(f"{member.name} ended; see {member.log}")
        for place in self.places.values():
            if place.peers.process.returncode is not None:
                raise EndedError(f"the process of {place.kind} ended; see {place.peers.log}")


@contextlib.asynccontextmanager
async def meeting(folder: Path, *, dev: bool = False) -> AsyncIterator[Meeting]:
    """Everything, ready. `dev`: the honest processes run as with `python -X dev`."""
    async with contextlib.AsyncExitStack() as stack:
        running_site = await stack.enter_async_context(_peers(folder, "site", str(folder / "site"), dev=dev))
        hostile = await stack.enter_async_context(_peers(folder, "pool"))
        await hostile.ready()
        plan = PoolPlan(
            home=folder / "pool", models=folder / "models", nodes=1, backend="synthetic", unit_s=0.0, devices=("cpu",),
            queue=QUEUE, strangers=tuple(hostile.facts["nodes"]), environ=_dev(dev),
        )  # fmt: skip
        pool = await stack.enter_async_context(LocalPool(plan))
        await running_site.ready()
        url = pool.url
        places = [
            Place(NODE, url, "", hostile),
            Place(BROADCASTER, url, pool.members[1].address, hostile),
            Place(APP, url, url, hostile),
            Place(RUNNER, running_site.facts["url"], "", running_site),
        ]
        logs = [running_site.log, *(member.log for member in pool.members)]
        yield Meeting({place.kind: place for place in places}, logs, pool)


@contextlib.asynccontextmanager
async def _peers(folder: Path, role: str, *words: str, dev: bool = False) -> AsyncIterator[Peers]:
    log = folder / f"{role}.log"
    command = (sys.executable, "-m", "tests.hostile.peers", role, *words)
    paths = os.pathsep.join(path for path in sys.path if path)
    environ = {**os.environ, "PYTHONPATH": paths, **_dev(dev)}
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=out, env=environ, limit=LINE_BYTES
        )
    try:
        yield Peers(process, log)
    finally:
        await _ended(process)


async def _said(process: Process, log: Path) -> dict[str, Any]:
    assert process.stdout
    async with asyncio.timeout(ANSWER_S):
        line = await process.stdout.readline()
    if not line:
        raise EndedError(f"the process ended; the end of its log:\n{log.read_text('utf-8')[-3000:]}")
    said: dict[str, Any] = json.loads(line)
    return said


async def _ended(process: Process) -> None:
    """Its input ends, and with it the process; one that goes on is killed."""
    assert process.stdin
    process.stdin.close()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _dev(dev: bool) -> dict[str, str]:
    return {"PYTHONDEVMODE": "1"} if dev else {}
