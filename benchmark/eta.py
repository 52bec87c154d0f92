"""What a node says of time: `python -m benchmark.eta` sends ten jobs for each slot at once and compares with the truth.

Accepted jobs are told when they begin; refused ones when to come again, and come exactly then. See docs/soak.md.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmark.client import BroadcasterClient, JobSpec
from benchmark.interruption import unless_stopped
from benchmark.local_pool import LeftoverError, LocalPool, PoolPlan
from benchmark.options import check_writable
from benchmark.overhead_figures import quantile
from benchmark.pool_plan import SYNTHETIC
from benchmark.soak_load import MPIX_STEPS, PIPELINE, SHAPE
from reelnet.errors import BusyError, ConfigError, NodeError
from reelnet.lifecycle import EXIT_DONE, EXIT_FAILED
from reelnet.lifecycle import report as report_error
from reelnet.lifecycle import run as run_until_done
from reelnet.operating.console import to_terminal

JOBS_PER_SLOT, QUEUE_PER_SLOT, WARM_UP_PER_SLOT = 10, 4, 4
JOB_S, SPREAD = 0.5, 0.5
"""Median of a job's run, and sigma of its logarithm."""
MAX_FACTOR, MIN_LET_IN = 2.0, 0.5
MAX_TRIES = 50
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
SHOWN_S = 0.1
"""Broadcasters round what they tell to this: nothing shorter is compared."""
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Told:
    """One job: seconds of waiting that it was told when it was accepted, true ones; how often it was refused before."""

    told_s: float
    true_s: float
    refusals: int

    @property
    def ratio(self) -> float:
        """Told to true."""
        return max(self.told_s, SHOWN_S) / max(self.true_s, SHOWN_S)


@dataclass(frozen=True, slots=True)
class Etas:
    """All jobs of a run, on a node with so many slots."""

    slots: int
    jobs: Sequence[Told]

    @property
    def ratios(self) -> list[float]:
        """Of the jobs that waited or were told to."""
        return [job.ratio for job in self.jobs if max(job.told_s, job.true_s) > SHOWN_S]

    @property
    def factor(self) -> float:
        """How far off the median job was told, as a factor of 1 or more; 1 when none waited."""
        return median([max(ratio, 1 / ratio) for ratio in self.ratios] or [1.0])

    @property
    def let_in(self) -> float:
        """Share of the returns at the time told that found a place; 1 when nobody had to return."""
        refused = [job.refusals for job in self.jobs if job.refusals]
        return len(refused) / sum(refused) if refused else 1.0

    @property
    def good(self) -> bool:
        """Whether what the node says is worth listening to."""
        return self.factor <= MAX_FACTOR and self.let_in > MIN_LET_IN


@cli.command(epilog="Example: python -m benchmark.eta --slots 2 --json eta.json")
def eta(
    slots: Annotated[int, typer.Option(help="Slots of the node; ten jobs come for each.", min=1, max=16)] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
) -> None:
    """Compares what a node tells its jobs of time with what becomes of them.

    Exit codes: 0 the median is within a factor of two, and most returns find a place; 1 not; 2 usage; 3 cannot start.
    """
    try:
        check_writable(json_file)
    except ConfigError as error:
        raise typer.Exit(report_error(error)) from None
    raise typer.Exit(_run(slots, json_file))


def _run(slots: int, json_file: Path | None) -> int:
    found: Etas | None = None

    async def main(stopping: asyncio.Event) -> None:
        nonlocal found
        found = await unless_stopped(stopping, measure(slots))

    try:
        if code := run_until_done(main):
            return code
    except (LeftoverError, ExceptionGroup) as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        return EXIT_FAILED
    if found is None:
        sys.stderr.write("interrupted: no result\n")
        return EXIT_FAILED
    show(found, to_terminal())
    if json_file:
        json_file.write_text(json.dumps(document(found), indent=1) + "\n", "utf-8")
    return EXIT_DONE if found.good else EXIT_FAILED


async def measure(slots: int) -> Etas:
    """Ten jobs for each slot of a node at once, after a few that it learns from. Raises StartError, LeftoverError."""
    with tempfile.TemporaryDirectory(prefix="rn-eta-") as folder:
        async with LocalPool(_plan(Path(folder), slots)) as pool:
            await _crowd(pool.url, WARM_UP_PER_SLOT * slots, seed=10_000)
            return Etas(slots, await _crowd(pool.url, JOBS_PER_SLOT * slots))


def _plan(home: Path, slots: int) -> PoolPlan:
    return PoolPlan(
        home=home,
        models=home / "models",
        nodes=1,
        backend="synthetic",
        unit_s=JOB_S / MPIX_STEPS,
        spread=SPREAD,
        replicas=slots,
        devices=("cpu",) * slots,
        queue=QUEUE_PER_SLOT * slots,
    )


async def _crowd(url: str, jobs: int, seed: int = 0) -> list[Told]:
    """So many jobs, each by a client of its own, at once."""
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        clients = [await stack.enter_async_context(BroadcasterClient(url)) for _ in range(jobs)]
        running = [tasks.create_task(_told(client, seed + i)) for i, client in enumerate(clients)]
    return [task.result() for task in running]


async def _told(client: BroadcasterClient, seed: int) -> Told:
    """A job that comes again whenever it is told to. Raises what it fails with, NodeError when it never gets in."""
    for refusals in range(MAX_TRIES):
        try:
            told_s, true_s = await _accepted(client, seed)
            return Told(told_s, true_s, refusals)
        except BusyError as refusal:
            await asyncio.sleep(refusal.retry_after_s or 0.0)
    raise NodeError(f"refused {MAX_TRIES} times", code="busy")


async def _accepted(client: BroadcasterClient, seed: int) -> tuple[float, float]:
    """A job to its end: seconds of waiting that it was told first, and true ones. Raises its failure."""
    told_s: float | None = None
    told_at = began_at = 0.0
    spec = JobSpec(PIPELINE, {"prompt": "bars", "seed": seed, **SHAPE}, SYNTHETIC)
    async with aclosing(client.events(spec)) as events:
        async for name, data in events:
            if name == "queued" and told_s is None:
                told_s, told_at = float(data["eta_s"]), time.monotonic()
            began_at = began_at or (time.monotonic() if name == "started" else 0.0)
    return told_s or 0.0, max(0.0, began_at - told_at)


def show(found: Etas, console: Console) -> None:
    """Prints the distribution."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("of the jobs that waited")
    for share in QUANTILES:
        table.add_column(f"p{share * 100:.0f}", justify="right")
    waited = [job for job in found.jobs if max(job.told_s, job.true_s) > SHOWN_S]
    if waited:
        rows = (("told, s", [j.told_s for j in waited]), ("true, s", [j.true_s for j in waited]))
        for head, values in (*rows, ("told / true", found.ratios)):
            table.add_row(head, *(f"{quantile(values, share):.2f}" for share in QUANTILES))
    console.print(table)
    returns = sum(job.refusals for job in found.jobs)
    refused = sum(1 for job in found.jobs if job.refusals)
    console.print(
        f"{len(found.jobs)} jobs at once, {found.slots} slots: off by a factor of {found.factor:.2f} at the median "
        f"(≤ {MAX_FACTOR:g}); {refused} were refused and came again {returns} times, "
        f"{found.let_in:.0%} found a place (> {MIN_LET_IN:.0%}).",
        highlight=False,
        soft_wrap=True,
    )


def document(found: Etas) -> dict[str, Any]:
    """The figures as JSON."""
    return {
        "slots": found.slots,
        "factor": found.factor,
        "let_in": found.let_in,
        "good": found.good,
        "jobs": [{"told_s": j.told_s, "true_s": j.true_s, "refusals": j.refusals} for j in found.jobs],
    }


def main() -> None:
    """The command."""
    sys.exit(cli())


if __name__ == "__main__":
    main()
