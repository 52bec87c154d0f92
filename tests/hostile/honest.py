"""The honest app: one job after another, each by the clock, and what went wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from benchmark.client import BroadcasterClient, JobSpec
from reelnet.errors import ReelnetError

JOB = JobSpec(
    "text-to-image",
    {"prompt": "boat", "width": 64, "height": 64, "num_inference_steps": 1, "seed": 1},
    model="synthetic/bars",
)


@dataclass
class Served:
    """What the honest app got: seconds of each job that succeeded, and why others did not."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def one_job(client: BroadcasterClient, served: Served) -> None:
    """A job, counted."""
    began = time.perf_counter()
    try:
        await client.run(JOB)
    except ReelnetError as error:
        served.failures.append(f"{error.failure.value} {error.code}: {error.message}"[:300])
    else:
        served.seconds.append(time.perf_counter() - began)


async def jobs_for(url: str, seconds: float, served: Served) -> None:
    """Jobs for so long, at least one."""
    until = time.monotonic() + seconds
    async with BroadcasterClient(url) as client:
        await one_job(client, served)
        while time.monotonic() < until:
            await one_job(client, served)
