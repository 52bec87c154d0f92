"""What the control plane costs: `python -m benchmark.overhead` measures the product beside two floors, in turns.

The jobs are no work, so that what is left is the way of a request through broadcaster, node and runner and of its
result back. See docs/overhead.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from benchmark import overhead_checks, overhead_cpu, overhead_profile, overhead_report
from benchmark.interruption import unless_stopped
from benchmark.local_pool import LeftoverError
from benchmark.options import check_writable
from benchmark.overhead_figures import KILO, MEGA, Turn, size_name
from benchmark.overhead_load import WrongAnswerError, drive, fetch
from benchmark.overhead_profile import Profile
from benchmark.overhead_report import Checks, Measured
from benchmark.overhead_subjects import Subject, subjects
from reelnet.errors import ConfigError
from reelnet.lifecycle import EXIT_DONE, EXIT_FAILED
from reelnet.lifecycle import report as report_error
from reelnet.lifecycle import run as run_until_done
from reelnet.operating.console import to_terminal

CONCURRENCY = 64
ALONE_SHARE = 4
"""One client alone does a part of the jobs that the many do."""
LARGE_BYTES = 100_000
LARGE_SHARE = 5
"""Of large results so much less is asked, as they take so much longer."""
MIN_SIZE, MAX_SIZE = 1000, 16 * MEGA
"""Bytes of a result: it is a picture, which has a smallest size, and its node and broadcaster hold it in memory."""
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks for. `runs` are the jobs of 64 clients in one round with small results."""

    runs: int
    rounds: int
    sizes: tuple[int, ...]
    profile: bool = False

    def jobs(self, size: int) -> tuple[int, int]:
        """Jobs of a turn: of one client, of many."""
        crowd = max(CONCURRENCY, self.runs // (LARGE_SHARE if size >= LARGE_BYTES else 1))
        return max(1, crowd // ALONE_SHARE), crowd


@dataclass(frozen=True, slots=True)
class Found:
    """What a run gave."""

    measured: Measured
    profiles: tuple[Profile, ...]


@cli.command(epilog="Example: python -m benchmark.overhead --rounds 9 --sizes 1000 --json overhead.json")
def overhead(
    runs: Annotated[int, typer.Option(help="Jobs of 64 clients in a round; one client does a quarter.", min=64)] = 1200,
    rounds: Annotated[int, typer.Option(help="Rounds; in each, every subject has its turn.", min=1, max=99)] = 5,
    sizes: Annotated[str, typer.Option(help="Bytes of the results.", metavar="N,…")] = f"{KILO},{MEGA}",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report there.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Afterwards, profile the product under load.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a ratio is not what is asked.")] = False,
) -> None:
    """Measures the product beside the contract floor and the unary floor: latency, rate, CPU, ratios.

    Exit codes: 0 measured, 1 something failed (with --strict: a target was missed), 2 usage, 3 cannot start.
    """
    try:
        plan = Plan(runs, rounds, parse_sizes(sizes), profile)
        check_writable(json_file)
    except ConfigError as error:
        raise typer.Exit(report_error(error)) from None
    raise typer.Exit(_run(plan, json_file, strict=strict))


def parse_sizes(text: str) -> tuple[int, ...]:
    """`1000,1000000` as numbers. Raises ConfigError."""
    try:
        sizes = tuple(int(word) for word in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or len(set(sizes)) < len(sizes) or not all(MIN_SIZE <= size <= MAX_SIZE for size in sizes):
        raise ConfigError(f"--sizes: expected distinct numbers from {MIN_SIZE} to {MAX_SIZE}, found {text[:60]!r}")
    return sizes


def in_turn(some: tuple[Subject, ...], number: int) -> tuple[Subject, ...]:
    """The order of a round: each time another subject begins, so that none is always the first or the last."""
    start = number % len(some)
    return some[start:] + some[:start]


def _run(plan: Plan, json_file: Path | None, *, strict: bool) -> int:
    found: Found | None = None

    async def main(stopping: asyncio.Event) -> None:
        nonlocal found
        found = await unless_stopped(stopping, _measure(plan))

    try:
        if code := run_until_done(main):
            return code
    except (LeftoverError, WrongAnswerError, aiohttp.ClientError, TimeoutError) as error:
        sys.stderr.write(f"error: {type(error).__name__}: {error}\n")
        return EXIT_FAILED
    if found is None:
        sys.stderr.write("interrupted: no result\n")
        return EXIT_FAILED
    return _tell(found, json_file, strict=strict)


def _tell(found: Found, json_file: Path | None, *, strict: bool) -> int:
    console = to_terminal(overhead_report.WIDTH)
    overhead_report.show(found.measured, console)
    overhead_profile.show(found.profiles, console)
    if json_file:
        json_file.write_text(json.dumps(overhead_report.document(found.measured), indent=1) + "\n", "utf-8")
    missed = overhead_report.missed(found.measured) if strict else []
    for line in missed:
        sys.stderr.write(f"missed: {line}\n")
    return EXIT_FAILED if missed else EXIT_DONE


MEMORY = Path("/dev/shm")  # noqa: S108  (only as a folder for a private folder)


async def _measure(plan: Plan) -> Found:
    say = to_terminal(stderr=True).print
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory(prefix="reelnet-overhead-", dir=_memory()) as folder:
        turns, padded_ms, others = list[Turn](), dict[int, float](), list[float]()
        for size in plan.sizes:
            say(f"starting the product and the floors, results of {size_name(size)}")
            async with subjects(Path(folder, str(size)), size) as some:
                padded_ms[size] = overhead_checks.padded_ms(await fetch(some[0].place))
                async for turn, share in _rounds(some, size, plan, say):
                    turns.append(turn)
                    others.append(share)
        profiles = await overhead_profile.take(Path(folder, "profile")) if plan.profile else ()
    checks = Checks(padded_ms, *overhead_checks.real_ms())
    share = sum(others) / len(others)
    return Found(Measured(tuple(turns), plan.rounds, CONCURRENCY, share, cores, checks), profiles)


def _memory() -> Path | None:
    """Where files lie in memory, if this machine has such a place: a disk's moods are no control plane's cost."""
    return MEMORY if os.access(MEMORY, os.W_OK) else None


async def _rounds(
    some: tuple[Subject, ...], size: int, plan: Plan, say: Callable[[str], None]
) -> AsyncIterator[tuple[Turn, float]]:
    """Every turn, and the share of the machine that others used in it. Before them each subject is warmed up."""
    for subject in some:
        await drive(subject.place, CONCURRENCY, CONCURRENCY)
    ours = {str(pid): pid for subject in some for pid in subject.roots.values()}  # the two floors share theirs
    for number in range(plan.rounds):
        say(f"{size_name(size)}, round {number + 1} of {plan.rounds}")
        for subject in in_turn(some, number):
            before = overhead_cpu.read(ours)
            turn = await _turn(subject, size, plan)
            yield turn, overhead_cpu.spent(before, overhead_cpu.read(ours), os.cpu_count() or 1).others


async def _turn(subject: Subject, size: int, plan: Plan) -> Turn:
    alone_jobs, crowd_jobs = plan.jobs(size)
    alone = await drive(subject.place, alone_jobs, 1)
    before = overhead_cpu.read(subject.roots)
    crowd = await drive(subject.place, crowd_jobs, CONCURRENCY)
    used = overhead_cpu.spent(before, overhead_cpu.read(subject.roots), 1)
    return Turn(subject.name, size, alone, crowd, used.servers)


def main() -> None:
    """The command."""
    sys.exit(cli())


if __name__ == "__main__":
    main()
