"""A soak: `python -m benchmark.soak` sends short jobs through a pool that is hurt every few jobs, and keeps account.

The pool is a broadcaster and two nodes in processes of their own. See docs/soak.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import httpx
import typer

from benchmark import soak_journal, soak_report
from benchmark.interruption import unless_stopped
from benchmark.local_pool import LeftoverError, LocalPool, Member, PoolPlan
from benchmark.options import check_writable
from benchmark.soak_account import WARM_UP_JOBS, Facts, Trend, trend, violations
from benchmark.soak_engine import ProcessRunners, Runners, SkippedError, containers
from benchmark.soak_faults import Fault, draw
from benchmark.soak_load import MPIX_STEPS, Crowd
from benchmark.soak_report import Soaked
from benchmark.soak_watch import NodeState, Watch, scrape, sums, until_idle
from reelnet.errors import ConfigError
from reelnet.lifecycle import EXIT_DONE, EXIT_FAILED
from reelnet.lifecycle import report as report_error
from reelnet.lifecycle import run as run_until_done
from reelnet.operating.console import to_terminal

CLIENTS = 16
JOB_S = 0.06
"""What a job takes on a runner, beside its overhead."""
SLOTS, QUEUE = 2, 32
SHAKEN, STEADY = 1, 0
"""The node that is killed, and the one that is not, and whose memory is followed to the end."""
IDLE_S = 30.0
"""So long the nodes get to be as they were before the first job."""
LIMIT_S, LIMIT_JOB_S = 60.0, 0.2
"""A soak may take so long, and so much longer for each job: then those that have not ended are given up."""
WARM_UP_SHARE = 5
"""Of a short soak, that part is the warm-up."""
LIMITS = {
    "stall_s": 1.0,
    "cancel_s": 3.0,
    "stop_s": 2.0,
    "restart_backoff_s": 0.2,
    "restart_backoff_max_s": 1.0,
    "quarantine_faults": 1_000_000,
}
"""A node that gives up on what hangs soon, and never on a slot: these faults are ours."""
FLAGS = {"tick_s": "0.25"}
CACHE = Path("reelnet", "soak-engine")
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for."""

    jobs: int
    fault_every: int
    seed: int
    engine: Literal["process", "docker"]
    image: str | None = None

    @property
    def warm_up_jobs(self) -> int:
        """Jobs before which nothing is said of memory."""
        return min(WARM_UP_JOBS, self.jobs // WARM_UP_SHARE)


@cli.command(epilog="Example: python -m benchmark.soak --jobs 200 --seed 7 --json soak.json")
def soak(
    jobs: Annotated[int, typer.Option(help="Jobs in all.", min=10, max=1_000_000)] = 1000,
    fault_every: Annotated[int, typer.Option(help="Every so many jobs something goes wrong.", min=2)] = 20,
    engine: Annotated[str, typer.Option(help="What runs the runners.", metavar="process|docker")] = "process",
    image: Annotated[str | None, typer.Option(help="Runner image; default: scripts/image synthetic.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the faults.", min=0)] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report there.")] = None,
) -> None:
    """Sends jobs through a broadcaster and two nodes while runners, nodes, jobs and clients fail, and keeps account.

    Exit codes: 0 every invariant holds, or skipped; 1 one does not; 2 usage; 3 cannot start.
    """
    try:
        if engine not in ("process", "docker"):
            raise ConfigError(f"--engine: expected process or docker, found {engine[:40]!r}")
        check_writable(json_file)
    except ConfigError as error:
        raise typer.Exit(report_error(error)) from None
    raise typer.Exit(
        _run(Plan(jobs, fault_every, seed, "docker" if engine == "docker" else "process", image), json_file)
    )


def _run(plan: Plan, json_file: Path | None) -> int:
    soaked: Soaked | None = None

    async def main(stopping: asyncio.Event) -> None:
        nonlocal soaked
        soaked = await unless_stopped(stopping, run_soak(plan))

    try:
        if code := run_until_done(main):
            return code
    except SkippedError as reason:
        sys.stderr.write(f"skipped: {reason}\n")
        return EXIT_DONE
    except (LeftoverError, httpx.HTTPError, sqlite3.Error) as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        return EXIT_FAILED
    if soaked is None:
        sys.stderr.write("interrupted: no result\n")
        return EXIT_FAILED
    soak_report.show(soaked, to_terminal(soak_report.WIDTH))
    if json_file:
        json_file.write_text(json.dumps(soak_report.document(soaked), indent=1) + "\n", "utf-8")
    return EXIT_FAILED if violations(soaked.facts) else EXIT_DONE


async def run_soak(plan: Plan) -> Soaked:
    """The whole soak. Raises SkippedError, StartError, and what reading metrics or the journal raises."""
    say = to_terminal(stderr=True).print
    with tempfile.TemporaryDirectory(prefix="rn-soak-", dir=_short()) as folder:
        async with _runners(plan) as runners:
            say(f"soak: {plan.jobs} jobs, a fault every {plan.fault_every}, engine {plan.engine}")
            return await _soak(plan, Path(folder), runners)


def _short() -> Path:
    """Where paths are short enough for sockets."""
    return Path("/tmp")  # noqa: S108  (only as a folder for a private folder)


@asynccontextmanager
async def _runners(plan: Plan) -> AsyncIterator[Runners]:
    if plan.engine == "process":
        yield ProcessRunners()
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    async with containers(cache / CACHE, plan.image) as runners:
        yield runners


def pool_plan(home: Path, runners: Runners) -> PoolPlan:
    """A broadcaster and two nodes of two slots each."""
    return PoolPlan(
        home=home,
        models=home / "models",
        nodes=2,
        backend="synthetic",
        unit_s=JOB_S / MPIX_STEPS,
        replicas=SLOTS,
        devices=("cpu",) * SLOTS,
        queue=QUEUE,
        flags=FLAGS,
        node={"limits": LIMITS, **runners.settings},
    )


@dataclass(slots=True)
class _Vandal:
    """Does the faults that are no job's own."""

    pool: LocalPool
    runners: Runners
    rng: random.Random
    struck: Counter[Fault] = field(default_factory=Counter)
    _crash: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def strike(self, fault: Fault) -> None:
        """Kills a runner of any node, or the node that may be killed."""
        self.struck[fault] += 1
        if fault is Fault.RUNNER:
            nodes = self.pool.members[1:]
            first = self.rng.choice(nodes)
            for node in (first, *(other for other in nodes if other is not first)):
                if await self.runners.kill_one(node, self.rng):
                    return
        if fault is Fault.NODE:
            async with self._crash:
                await self.pool.crash(SHAKEN)


@dataclass(frozen=True, slots=True)
class _Used:
    """What was seen of a pool before it was stopped."""

    crowd: Crowd
    watch: Watch
    seconds: float
    struck: Counter[Fault]
    members: list[Member]
    nodes: list[NodeState]
    counted: dict[str, int]
    spooled: list[str]


async def _soak(plan: Plan, home: Path, runners: Runners) -> Soaked:
    used, left = None, list[str]()
    try:
        async with LocalPool(pool_plan(home, runners)) as pool:
            used = await _use(plan, pool, home, runners)
    except LeftoverError as error:
        if used is None:
            raise
        left = [str(error)]
    facts = Facts(
        jobs=plan.jobs,
        seen=used.crowd.seen,
        rows=await asyncio.to_thread(soak_journal.read, home),
        counted=used.counted,
        nodes=used.nodes,
        spooled=used.spooled,
        left=[*left, *await runners.left(used.members[1:])],
        trends=_trends(used.watch, used.members[STEADY + 1].name, plan.warm_up_jobs),
    )
    return Soaked(facts, plan.engine, plan.seed, used.seconds, used.struck)


async def _use(plan: Plan, pool: LocalPool, home: Path, runners: Runners) -> _Used:
    """Sends the jobs, strikes, and looks at what is left when all is quiet."""
    vandal = _Vandal(pool, runners, random.Random(plan.seed))  # noqa: S311  (a schedule, not a secret)
    crowd = Crowd(pool.url, plan.jobs, CLIENTS, draw(plan.jobs, plan.fault_every, plan.seed), vandal.strike)
    watch = Watch(lambda: {m.name: m.pid for m in pool.members}, lambda: len(crowd.seen))
    seconds = await _timed(crowd, watch)
    members = list(pool.members)
    nodes = await asyncio.gather(*(until_idle(member, IDLE_S) for member in members[1:]))
    counted = sums(await scrape(members[0]), "reelnet_jobs_total", "class")
    return _Used(crowd, watch, seconds, vandal.struck, members, nodes, counted, await asyncio.to_thread(_spooled, home))


def _spooled(home: Path) -> list[str]:
    """Files in the nodes' spools."""
    return [str(path) for path in home.glob("orchestrator/*/spool/**/*") if path.is_file()]


async def _timed(crowd: Crowd, watch: Watch) -> float:
    began = time.monotonic()
    watching = asyncio.create_task(watch.run(), name="watch")
    try:
        with suppress(TimeoutError):  # who is missing then is seen in the account
            async with asyncio.timeout(LIMIT_S + LIMIT_JOB_S * crowd.jobs):
                await crowd.run()
    finally:
        watching.cancel()
    return time.monotonic() - began


def _trends(watch: Watch, steady: str, warm_up_jobs: int) -> list[Trend]:
    """Of the broadcaster and of the node that was never killed."""
    found = (
        trend(name, readings, warm_up_jobs)
        for name in ("broadcaster", steady)
        for readings in watch.readings[name].values()
    )
    return [one for one in found if one]


def main() -> None:
    """The command."""
    sys.exit(cli())


if __name__ == "__main__":
    main()
