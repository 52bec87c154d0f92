"""One measurement from the first warm-up job to the last checked output, with its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmark.check import check
from benchmark.drive import RUN, WARMUP, Drive, record
from benchmark.lane import Kind
from benchmark.machine import Machine, look_around
from benchmark.measure import Recorded
from benchmark.reference import Reference, reference_for
from benchmark.scenario import Scenario
from benchmark.targets import Found

CHECKS = "checks"
SHORT_CHARS = 10


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured and how, before anything is made of it.

    `agreement` is by node, see `benchmark.lies`; `labels` are names that people know nodes by.
    """

    kind: Kind
    where: str
    scenario: Scenario
    recorded: tuple[Recorded, ...]
    machine: Machine
    agreement: Mapping[str, float] = field(default_factory=dict)
    reference: Reference | None = None
    start_s: float | None = None
    ready_s: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    wall_s: float = 0.0

    def name_of(self, node: str) -> str:
        """A node's name as tables have it: its label, else the beginning of its id."""
        return self.labels.get(node) or (node if "/" in node else node[:SHORT_CHARS])


async def measure(
    found: Found,
    folder: Path,
    console: Console,
    reference: float | None = None,
    clock: Callable[[], float] = perf_counter,
) -> Measurement:
    """Drives the lanes and checks what came back, with a bar for each phase on a terminal; turns are by `clock`."""
    scenario, machine = found.scenario, await look_around()
    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = {phase: progress.add_task(phase, total=_total(found, phase)) for phase in (WARMUP, RUN, CHECKS)}
        began = perf_counter()
        drive = Drive(scenario, folder, lambda phase: progress.advance(bars[phase]), clock)
        tracks = await drive.run(found.lanes)
        wall_s = perf_counter() - began
        jobs = [job for track in tracks for job in (*track.warmup, *track.jobs)]
        progress.update(bars[CHECKS], total=len(jobs))
        agreed = await check(jobs, scenario, lambda: progress.advance(bars[CHECKS]))
    return Measurement(
        kind=found.kind,
        where=found.where,
        scenario=scenario,
        recorded=tuple(record(track, scenario) for track in tracks),
        machine=machine,
        agreement=agreed,
        reference=reference_for(scenario.pipeline.name, scenario.model, reference),
        start_s=found.start_s,
        ready_s=found.ready_s,
        labels=found.labels,
        wall_s=wall_s,
    )


def _total(found: Found, phase: str) -> int | None:
    """How many jobs a phase has; None while nobody knows."""
    request = found.scenario.request
    if phase == WARMUP:
        return request.warmup * len(found.lanes)
    return request.runs * len(found.lanes) if phase == RUN and request.duration_s is None else None
