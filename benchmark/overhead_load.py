"""The load of the overhead benchmark: clients that ask, fetch, and stop their clock at the last byte."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from benchmark.floor.messages import request

JOB_TIMEOUT_S = 60.0


class WrongAnswerError(Exception):
    """A server did not answer as it has to: no figure of it would mean anything."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs go. A `direct` answer is the result itself; otherwise it names where the result is."""

    url: str
    path: str
    size: int
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What one load showed: seconds of each job, and of them all. `opening` jobs were done before the clock started."""

    latencies_s: tuple[float, ...]
    wall_s: float
    opening: int = 0

    @property
    def served(self) -> int:
        """Jobs that the servers did."""
        return len(self.latencies_s) + self.opening

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return len(self.latencies_s) / self.wall_s


async def drive(place: Place, jobs: int, concurrency: int) -> Sample:
    """`jobs` jobs, `concurrency` at a time, each client with a connection of its own that is open already.

    Raises WrongAnswerError, or what one client's connection failed with.
    """
    turns, clocks = iter(range(jobs)), _Clocks(asyncio.Barrier(concurrency))
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(concurrency):
                group.create_task(_client(place, turns, clocks), name=f"client:{number}")
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return Sample(tuple(clocks.latencies_s), clocks.ended - clocks.began, concurrency)


async def fetch(place: Place) -> bytes:
    """One job's result. Raises WrongAnswerError."""
    async with _session() as session:
        return await _job(session, place)


class _Clocks:
    def __init__(self, start: asyncio.Barrier) -> None:
        self.start = start
        self.began = self.ended = 0.0
        self.latencies_s: list[float] = []


async def _client(place: Place, turns: Iterator[int], clocks: _Clocks) -> None:
    async with _session() as session:
        await _job(session, place)  # opens the connection
        await clocks.start.wait()
        clocks.began = clocks.began or time.perf_counter()
        for _ in turns:
            asked = time.perf_counter()
            data = await _job(session, place, checked=False)
            clocks.ended = time.perf_counter()
            clocks.latencies_s.append(clocks.ended - asked)
            _check(data, place)


@asynccontextmanager
async def _session() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=JOB_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1), timeout=timeout) as session:
        yield session


async def _job(session: aiohttp.ClientSession, place: Place, *, checked: bool = True) -> bytes:
    async with session.post(place.url + place.path, json=request(place.size)) as answer:
        data = await _body(answer)
    if not place.direct:
        async with session.get(json.loads(data)["images"][0]["url"]) as answer:
            data = await _body(answer)
    if checked:
        _check(data, place)
    return data


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    data = await answer.read()
    if answer.status != 200:
        raise WrongAnswerError(f"{answer.url} answered {answer.status}: {data[:200]!r}")
    return data


def _check(data: bytes, place: Place) -> None:
    if len(data) != place.size:
        raise WrongAnswerError(f"{place.url}{place.path} gave {len(data)} bytes instead of {place.size}")
