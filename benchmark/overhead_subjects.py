"""What the overhead benchmark measures: the product and the two floors, as processes on this machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark.floor.messages import PIPELINE
from benchmark.floor.runner import SOCKET
from benchmark.local_pool import LocalPool, PoolPlan
from benchmark.overhead_load import Place
from benchmark.processes import Child, start, tail
from reelnet.errors import StartError

PRODUCT, CONTRACT, UNARY = "product", "contract floor", "unary floor"
SUBJECTS = (PRODUCT, CONTRACT, UNARY)
FLOORS = {"runner": SOCKET, "node": "node.port", "gateway": "gateway.port"}
"""The floors' processes in the order of their start, and the file that says that each is there."""
FLOOR_ROLES = {"broadcaster": "gateway", "node": "node", "runner": "runner"}
QUEUE = 256
"""Places of the node's queue: more than there are clients, so that no job is refused."""
START_S = 30.0
STOP_S = 5.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Subject:
    """One row of the table: where its jobs go, and the pids of its components by role."""

    name: str
    place: Place
    roots: Mapping[str, int]


def product_plan(home: Path, size: int, profiles: Path | None = None) -> PoolPlan:
    """One broadcaster and one node with two runners, whose jobs are no work and give `size` bytes."""
    return PoolPlan(
        home=home,
        models=home / "models",
        nodes=1,
        backend="synthetic",
        unit_s=0.0,
        output_bytes=size,
        replicas=2,
        devices=("cpu", "cpu"),
        queue=QUEUE,
        profiles=profiles,
    )


@asynccontextmanager
async def subjects(folder: Path, size: int) -> AsyncIterator[tuple[Subject, ...]]:
    """All three, ready, for the length of the block. Raises StartError."""
    async with AsyncExitStack() as stack:
        floors = await stack.enter_async_context(_floors(folder / "floors", size))
        pool = await stack.enter_async_context(LocalPool(product_plan(folder / "pool", size)))
        yield (product(pool, size), *floors)


def product(pool: LocalPool, size: int) -> Subject:
    """A running pool of one node as a subject."""
    broadcaster, node = pool.members
    roots = {"broadcaster": broadcaster.pid, "node": node.pid}
    return Subject(PRODUCT, Place(pool.url, f"/{PIPELINE}", size), roots)


@asynccontextmanager
async def _floors(folder: Path, size: int) -> AsyncIterator[tuple[Subject, Subject]]:
    children: dict[str, Child] = {}
    try:
        for part, sign in FLOORS.items():
            words = [part, str(folder), str(size)]
            children[part] = await start(part, "benchmark.floor", words, folder / f"{part}.log", dict(os.environ))
            await _ready(children[part], (folder / sign).exists)
        url = f"http://127.0.0.1:{(folder / FLOORS['gateway']).read_text('utf-8')}"
        roots = {role: children[part].pid for role, part in FLOOR_ROLES.items()}
        contract = Subject(CONTRACT, Place(url, f"/{PIPELINE}", size), roots)
        yield contract, Subject(UNARY, Place(url, "/unary", size, direct=True), roots)
    finally:
        for child in reversed(children.values()):
            await child.stop(STOP_S)


async def _ready(child: Child, is_there: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(START_S):
            while not is_there():
                if child.exit_code is not None:
                    raise StartError(f"the floor's {child.name} ended; the end of its log:\n{tail(child.log)}")
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise StartError(f"the floor's {child.name} was not ready after {START_S:g} s:\n{tail(child.log)}") from None
