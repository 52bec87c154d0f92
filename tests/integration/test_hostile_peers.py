"""Hostile peers of each kind at work beside an honest app, whose jobs all succeed, with every check of Python's on."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from benchmark.client import BroadcasterClient
from tests.fakes.pool import PATIENCE_S
from tests.hostile.honest import Served, one_job
from tests.hostile.peers import APP, BROADCASTER, NODE, RUNNER
from tests.hostile.places import Meeting, Place, meeting

pytestmark = pytest.mark.asyncio(loop_scope="module")
JOBS = 15
FAULT = re.compile(
    r"fault of this program|Traceback|never (?:retrieved|awaited|closed)|ResourceWarning|destroyed but it is pending"
    r"|exception ignored|Fatal|loop is closed",
    re.IGNORECASE,
)
"""What a process says of a fault of its own, and what Python says of it under -X dev."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everybody() -> AsyncIterator[Meeting]:
    """Honest processes under -X dev, and hostile ones; at their end the honest ones have told of no fault."""
    folder = Path(tempfile.mkdtemp(prefix="reelnet-"))
    async with meeting(folder, dev=True) as together:
        yield together
    assert not faults(together)
    shutil.rmtree(folder)


def faults(together: Meeting) -> list[str]:
    """The lines of the honest processes' logs that tell of a fault."""
    lines = [line for log in together.logs for line in log.read_text("utf-8").splitlines()]
    return [line[:1000] for line in lines if FAULT.search(line)]


def every_act(harm: dict[str, int]) -> bool:
    return all(harm.values())


def of_nodes(harm: dict[str, int]) -> bool:
    return harm["updates"] > 0 and harm["noise in a watch"] > 0 and any(name.startswith("job") for name in harm)


def of_runners(harm: dict[str, int]) -> bool:
    broken = {name.partition(":")[0] for name, count in harm.items() if count}
    return {"stream", "info", "health"} <= broken


@pytest.mark.parametrize(
    ("kind", "done"), [(NODE, of_nodes), (BROADCASTER, every_act), (APP, every_act), (RUNNER, of_runners)]
)
async def test_honest_jobs_succeed_beside_a_hostile_peer(
    everybody: Meeting, kind: str, done: Callable[[dict[str, int]], bool]
) -> None:
    """While the peer does all that it can, every honest job succeeds, no process ends, and none tells of a fault."""
    place, served = everybody.places[kind], Served()
    async with place.under_attack(), BroadcasterClient(place.url) as client:
        await work(place, client, served, done)
    assert not served.failures
    everybody.check_alive()
    assert not faults(everybody)


async def work(place: Place, client: BroadcasterClient, served: Served, done: Callable[[dict[str, int]], bool]) -> None:
    """So many jobs, and more until everything was done to them that is to be; a failure ends it."""
    async with asyncio.timeout(PATIENCE_S):
        while len(served.seconds) < JOBS or not done(await place.harm()):
            await one_job(client, served)
            if served.failures:
                return
