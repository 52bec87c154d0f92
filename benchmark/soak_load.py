"""The clients of a soak: each asks for one job after the other and notes how it ended, or leaves in its middle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field

from benchmark.client import BroadcasterClient, JobSpec
from benchmark.pool_plan import SYNTHETIC
from benchmark.soak_faults import OF_JOBS, PROMPTS, Fault
from reelnet.errors import ReelnetError

OK, LEFT = "ok", "left"
PIPELINE = "text-to-image"
SHAPE = {"width": 64, "height": 64, "num_inference_steps": 4}
MPIX_STEPS = 64 * 64 * 4 / 1e6
"""Work of one job."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw of one job: its id, and how it ended: `ok`, a failure class, or that the client `left`."""

    number: int
    job_id: str
    end: str
    fault: Fault | None = None
    code: str = ""
    seconds: float = 0.0


Strike = Callable[[Fault], Awaitable[None]]


@dataclass(slots=True)
class Crowd:
    """`clients` clients that share `jobs` jobs. `strike` is told of faults that are no job's own, as their turn comes.

    `seen` has every job that is over.
    """

    url: str
    jobs: int
    clients: int
    faults: Mapping[int, Fault]
    strike: Strike
    seen: list[Seen] = field(default_factory=list)

    async def run(self) -> None:
        """Returns when every job has ended and every strike is over."""
        numbers = iter(range(self.jobs))
        async with asyncio.TaskGroup() as tasks:
            for client in range(self.clients):
                tasks.create_task(self._client(numbers, tasks), name=f"client:{client}")

    async def _client(self, numbers: Iterator[int], tasks: asyncio.TaskGroup) -> None:
        async with BroadcasterClient(self.url) as client:
            for number in numbers:
                fault = self.faults.get(number)
                if fault and fault not in OF_JOBS:
                    tasks.create_task(_awaited(self.strike(fault)), name=f"strike:{fault}")
                self.seen.append(await _job(client, number, fault if fault in OF_JOBS else None))


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _job(client: BroadcasterClient, number: int, fault: Fault | None) -> Seen:
    """One job to its end."""
    job_id, end, code, began = "", LEFT, "", time.monotonic()
    try:
        async with aclosing(client.events(_spec(number, fault))) as events:
            async for name, data in events:
                if name == "job":
                    job_id = str(data.get("id"))
                if name == "result":
                    end = OK
                if name in ("started", "progress") and fault is Fault.LEAVE:
                    break
    except ReelnetError as error:
        end, code = error.failure.value, error.code
    return Seen(number, job_id, end, fault, code, time.monotonic() - began)


def _spec(number: int, fault: Fault | None) -> JobSpec:
    prompt = PROMPTS.get(fault, "bars") if fault else "bars"
    return JobSpec(PIPELINE, {"prompt": prompt, "seed": number, **SHAPE}, SYNTHETIC)
