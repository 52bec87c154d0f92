"""Runs a scenario against a broadcaster: a fixed number of jobs at a time, then a look at what came back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from benchmark.client import MAX_OUTPUT_BYTES, BroadcasterClient
from benchmark.measure import Sample, Summary, summarize
from benchmark.scenario import Scenario
from reelnet.errors import NodeError, ReelnetError
from reelnet.inspection import check_output

CHECK = "check"
"""The failure of a run whose output is not what was asked."""


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured: the samples in the order of their seeds, and the seconds from first request to last answer."""

    scenario: Scenario
    samples: tuple[Sample, ...]
    wall_s: float

    @property
    def summary(self) -> Summary:
        """The figures."""
        return summarize(self.samples, self.wall_s, self.scenario.work, len(self.scenario.promises))


@dataclass(frozen=True, slots=True)
class _Fetched:
    """A run and its outputs: file and claimed media type of each."""

    sample: Sample
    outputs: tuple[tuple[Path, str], ...] = ()


async def drive(url: str, scenario: Scenario, folder: Path, tell: Callable[[Sample], None]) -> Run:
    """Runs the warm-up, then the runs. `tell` hears of each as it ends, warm-up included; `folder` gets the outputs.

    Outputs are decoded and checked when the clock has stopped: a check takes CPU that a job may need. A failed run is
    a sample, never an exception.
    """
    request = scenario.request
    first_of_warmup = request.seed + request.runs
    warmup = await _loop(url, scenario, folder, iter(range(first_of_warmup, first_of_warmup + request.warmup)), tell)
    for item in warmup:
        _remove(path for path, _ in item.outputs)
    began = perf_counter()
    fetched = await _loop(url, scenario, folder, iter(range(request.seed, first_of_warmup)), tell)
    wall_s = perf_counter() - began
    checked = [await asyncio.to_thread(_check, item, scenario) for item in fetched]
    return Run(scenario, tuple(sorted(checked, key=lambda sample: sample.seed)), wall_s)


async def _loop(
    url: str, scenario: Scenario, folder: Path, seeds: Iterator[int], tell: Callable[[Sample], None]
) -> list[_Fetched]:
    """Works the seeds off with as many workers as the scenario says, each with a connection of its own."""
    done: list[_Fetched] = []

    async def work() -> None:
        async with BroadcasterClient(url) as client:
            for seed in seeds:
                done.append(await _once(client, scenario, folder, seed))
                tell(done[-1].sample)

    async with asyncio.TaskGroup() as workers:
        for number in range(scenario.request.concurrency):
            workers.create_task(work(), name=f"worker:{number}")
    return done


async def _once(client: BroadcasterClient, scenario: Scenario, folder: Path, seed: int) -> _Fetched:
    paths = [folder / f"{seed}-{index}" for index in range(len(scenario.promises))]
    began = perf_counter()
    try:
        answer = await client.run(scenario.job(seed))
        total_s = perf_counter() - began
        links = zip(paths, answer.urls, strict=False)
        outputs = [(path, await client.download(url, path)) for path, url in links]
    except ReelnetError as error:
        _remove(paths)
        return _Fetched(Sample(seed, perf_counter() - began, failure=error.failure.value, code=error.code))
    timings_s = {**answer.timings_s, "download": perf_counter() - began - total_s}
    sample = Sample(seed, total_s, answer.node, answer.price_nano, timings_s)
    if len(answer.urls) != len(scenario.promises):
        sample = replace(sample, failure=CHECK, code="count")
    return _Fetched(sample, tuple(outputs))


def _check(fetched: _Fetched, scenario: Scenario) -> Sample:
    """The sample, with the first hard check that fails as its failure; its files are removed."""
    marks: list[str] = []
    try:
        for (path, media_type), spec in zip(fetched.outputs, scenario.promises, strict=False):
            facts = check_output(path, media_type, spec, MAX_OUTPUT_BYTES)
            marks += [name for name in ("constant", "still") if getattr(facts, name)]
    except NodeError as error:
        return replace(fetched.sample, failure=CHECK, code=error.code)
    finally:
        _remove(path for path, _ in fetched.outputs)
    return replace(fetched.sample, marks=tuple(marks))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
