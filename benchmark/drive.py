"""Runs a scenario: one lane in a closed loop, several side by side in blocks."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from benchmark.intervals import Turn
from benchmark.lane import Delivered, Lane, Order
from benchmark.measure import Recorded, Sample, completions
from benchmark.scenario import WARMUP_SEEDS, Scenario
from reelnet.errors import ReelnetError, printable

WARMUP, RUN = "warm-up", "runs"
MAX_STAGES = 32
MAX_STAGE_CHARS = 32


@dataclass(slots=True)
class Job:
    """A job that has ended: its sample, its unchecked outputs, and when it ended by the drive's clock."""

    sample: Sample
    outputs: tuple[tuple[Path, str], ...] = ()
    ended: float = 0.0


class TurnTaken(NamedTuple):
    """One lane's turn in a block: the jobs that were sent at once, and the seconds until the last had ended."""

    jobs: list[Job]
    seconds: float


@dataclass(slots=True)
class Track:
    """What one lane did so far: warm-up jobs, jobs that count, and its turns where lanes take turns."""

    name: str
    began: float = 0.0
    warmup: list[Job] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    turns: list[TurnTaken] = field(default_factory=list)

    def part(self, phase: str) -> list[Job]:
        """The jobs of a phase."""
        return self.warmup if phase == WARMUP else self.jobs


@dataclass(slots=True)
class Drive:
    """Sends the jobs. `folder` gets the outputs; `tell` hears the phase of each job that has ended.

    A failed run is a sample, never an exception. With another `clock`, seconds of turns are that clock's.
    """

    scenario: Scenario
    folder: Path
    tell: Callable[[str], None] = lambda phase: None
    clock: Callable[[], float] = perf_counter
    _places: Iterator[int] = field(default_factory=count)

    async def run(self, lanes: Sequence[Lane]) -> tuple[Track, ...]:
        """Warm-up, then the runs."""
        tracks = tuple(Track(lane.name) for lane in lanes)
        if len(lanes) == 1:
            await self._alone(lanes[0], tracks[0])
        else:
            await self._side_by_side(lanes, tracks)
        return tracks

    async def _alone(self, lane: Lane, track: Track) -> None:
        await self._loop(lane, track, self._warmup_seeds(), WARMUP)
        track.began = self.clock()
        await self._loop(lane, track, self._seeds(), RUN)

    async def _loop(self, lane: Lane, track: Track, seeds: Iterator[int], phase: str) -> None:
        """Works the seeds off with so many workers at a time; the next jobs are prepared while others run."""
        workers = self.scenario.request.concurrency
        ready: asyncio.Queue[Order | None] = asyncio.Queue(workers)

        async def prepare() -> None:
            for seed in seeds:
                await ready.put(await self._order(seed))
            for _ in range(workers):
                await ready.put(None)

        async def work() -> None:
            while order := await ready.get():
                track.part(phase).append(await self._once(lane, order, phase))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(prepare(), name="prepare")
            for number in range(workers):
                tasks.create_task(work(), name=f"worker:{number}")

    async def _side_by_side(self, lanes: Sequence[Lane], tracks: Sequence[Track]) -> None:
        """Blocks: in each, every lane has one turn with the same jobs, in an order that is drawn anew.

        So a machine or a network that gets slower meanwhile does so for all of them alike.
        """
        rng = random.Random(self.scenario.request.seed)  # noqa: S311  (no secret)
        places = list(zip(lanes, tracks, strict=True))
        for phase, seeds in ((WARMUP, self._warmup_seeds()), (RUN, self._seeds())):
            while block := list(islice(seeds, self.scenario.request.concurrency)):
                for lane, track in rng.sample(places, len(places)):
                    turn = await self._turn(lane, block, phase)
                    track.part(phase).extend(turn.jobs)
                    if phase == RUN:
                        track.turns.append(turn)

    async def _turn(self, lane: Lane, seeds: Sequence[int], phase: str) -> TurnTaken:
        orders = [await self._order(seed) for seed in seeds]
        began = self.clock()
        jobs = await asyncio.gather(*(self._once(lane, order, phase) for order in orders))
        return TurnTaken(list(jobs), self.clock() - began)

    def _warmup_seeds(self) -> Iterator[int]:
        request = self.scenario.request
        return islice(count(request.seed + WARMUP_SEEDS), request.warmup)

    def _seeds(self) -> Iterator[int]:
        """The runs' seeds: as many as were asked, or until the time is over, which begins with the first."""
        request, began = self.scenario.request, self.clock()
        for number in count():
            if number >= request.runs if request.duration_s is None else self.clock() - began >= request.duration_s:
                return
            yield request.seed + number

    async def _order(self, seed: int) -> Order:
        """The next job. A picture is drawn on another thread, so that the jobs which run are not held up."""
        scenario = self.scenario
        spec = await asyncio.to_thread(scenario.job, seed) if scenario.source else scenario.job(seed)
        place = next(self._places)
        paths = tuple(self.folder / f"{place}-{index}" for index in range(scenario.results))
        return Order(seed, place, spec, scenario.complete(seed), paths)

    async def _once(self, lane: Lane, order: Order, phase: str) -> Job:
        began = self.clock()
        try:
            delivered = await lane.run(order)
        except ReelnetError as error:
            for path in order.paths:
                path.unlink(missing_ok=True)
            total_s, reason = self.clock() - began, (error.failure.value, printable(error.code, 64))
            job = Job(Sample(order.seed, total_s, lane.name, order.place, failure=reason[0], code=reason[1]))
        else:
            job = Job(_sample(order, delivered), delivered.outputs)
        job.ended = self.clock()
        self.tell(phase)
        return job


def record(track: Track, scenario: Scenario) -> Recorded:
    """What a lane did, from its jobs as they were found after the checks."""
    warmup, samples = (tuple(job.sample for job in sorted(jobs, key=_place)) for jobs in (track.warmup, track.jobs))
    if not track.turns:
        amounts = [float(job.sample.good * scenario.results) for job in track.jobs]
        ended = [job.ended for job in track.jobs]
        turns = completions(track.began, ended, amounts, scenario.request.concurrency)
        return Recorded(track.name, warmup, samples, turns)
    good = [[job.sample.good for job in turn.jobs] for turn in track.turns]
    turns = tuple(Turn(float(sum(g) * scenario.results), t.seconds) for g, t in zip(good, track.turns, strict=True))
    blocks = tuple(turn.seconds if all(g) else None for g, turn in zip(good, track.turns, strict=True))
    return Recorded(track.name, warmup, samples, turns, blocks)


def _place(job: Job) -> int:
    return job.sample.place


def _sample(order: Order, delivered: Delivered) -> Sample:
    """The sample of a job that came back. A stranger's stages are bounded, and what is no time is left out."""
    stages = list(delivered.timings_s.items())[:MAX_STAGES]
    timings_s = {printable(name, MAX_STAGE_CHARS): s for name, s in stages if math.isfinite(s) and s >= 0}
    return Sample(
        seed=order.seed,
        total_s=delivered.total_s,
        node=printable(delivered.node, 64),
        place=order.place,
        price_nano=delivered.price_nano,
        timings_s=timings_s,
        cold=delivered.cold,
    )
