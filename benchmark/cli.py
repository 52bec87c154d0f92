"""The `benchmark` command."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmark import report
from benchmark.client import BroadcasterClient
from benchmark.drive import Run, drive
from benchmark.interruption import unless_stopped
from benchmark.local_pool import Backend, LeftoverError, PoolPlan, use_or_start
from benchmark.scenario import Request, choose_model, parse_pipeline, parse_size, plan
from reelnet.errors import ConfigError, ReelnetError, StartError
from reelnet.home import models_home
from reelnet.lifecycle import EXIT_DONE, EXIT_FAILED
from reelnet.lifecycle import report as report_error
from reelnet.lifecycle import run as run_until_done

DEFAULT_URL = "http://127.0.0.1:9935"
cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to run: a broadcaster that has to be there, or a local pool of that form when none is found."""

    url: str | None
    backend: Backend
    nodes: int
    fresh: bool


@cli.command(epilog="Example: benchmark --pipeline image-to-video --runs 20 --concurrency 2 --json report.json")
def benchmark(
    pipeline: Annotated[str, typer.Option(help="text-to-image, image-to-video, …", metavar="NAME")],
    url: Annotated[str | None, typer.Option(help=f"Broadcaster; default: {DEFAULT_URL}, else a local pool.")] = None,
    backend: Annotated[str, typer.Option(help="Of a local pool: tiny or synthetic.")] = "tiny",
    nodes: Annotated[int, typer.Option(help="Of a local pool.", min=1, max=16)] = 1,
    local_pool: Annotated[bool, typer.Option("--local-pool", help="Start a pool even where one answers.")] = False,
    model: Annotated[str | None, typer.Option(help="Model id; default: the one most nodes serve.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    size: Annotated[str | None, typer.Option(help="WxH, pixels.", metavar="WxH")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip.")] = None,
    runs: Annotated[int, typer.Option(help="Jobs that count.", min=1)] = 5,
    warmup: Annotated[int, typer.Option(help="Jobs before them that do not.", min=0)] = 1,
    concurrency: Annotated[int, typer.Option(help="Jobs at a time.", min=1, max=1024)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first run; run i has seed + i.", min=0)] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report there.")] = None,
) -> None:
    """Measures a pool over HTTP: throughput, latency by stage, failures, price; every output is decoded and checked.

    Exit codes: 0 all runs good, 1 some failed, 2 usage, 3 cannot start.
    """
    try:
        known = parse_pipeline(pipeline)
        asked = parse_size(size) if size else None
        request = Request(known, steps, asked, frames, runs, warmup, concurrency, seed)
        plan(request, model or "")  # a wrong option is found before seconds are spent on a pool
        target = Target(url, _backend(backend), nodes, local_pool)
        _check_writable(json_file)
    except ConfigError as error:
        raise typer.Exit(report_error(error)) from None
    raise typer.Exit(_run(target, request, model, json_file))


def _run(target: Target, request: Request, model: str | None, json_file: Path | None) -> int:
    result: Run | None = None

    async def main(stopping: asyncio.Event) -> None:
        nonlocal result
        result = await unless_stopped(stopping, _measure(target, request, model))

    try:
        if code := run_until_done(main):
            return code
    except LeftoverError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    if result is None:
        sys.stderr.write("interrupted: no result\n")
        return EXIT_FAILED
    report.show(result, Console())
    if json_file:
        json_file.write_text(report.to_json(result), "utf-8")
    return EXIT_DONE if result.summary.good == result.summary.runs else EXIT_FAILED


async def _measure(target: Target, request: Request, model: str | None) -> Run:
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="reelnet-bench-") as folder:
        if target.url:
            return await _measure_at(target.url, request, model, Path(folder), console)
        pool = PoolPlan(home=Path(folder, "pool"), models=models_home(), nodes=target.nodes, backend=target.backend)
        async with use_or_start(
            None if target.fresh else DEFAULT_URL, pool, lambda step: console.print(f"local pool: {step}")
        ) as url:
            console.print(f"measuring {url}", highlight=False)
            return await _measure_at(url, request, model, Path(folder), console)


async def _measure_at(url: str, request: Request, model: str | None, folder: Path, console: Console) -> Run:
    scenario = plan(request, choose_model(request.pipeline, model, await _offers(url)))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("jobs", total=request.warmup + request.runs)
        return await drive(url, scenario, folder, lambda sample: progress.advance(bar))


async def _offers(url: str) -> dict[tuple[str, str], int]:
    async with BroadcasterClient(url) as client:
        try:
            return await client.offers()
        except ReelnetError as error:
            raise StartError(f"{url}: {error.message}; is a broadcaster there?") from None


def _backend(text: str) -> Backend:
    if text in get_args(Backend):
        return cast(Backend, text)
    raise ConfigError(f"--backend: expected tiny or synthetic, found {text!r}")


def _check_writable(file: Path | None) -> None:
    if file is not None and not file.resolve().parent.is_dir():
        raise ConfigError(f"--json: {file.parent} is no folder; make it first")


def main() -> None:
    """The console command."""
    sys.exit(cli())


if __name__ == "__main__":
    main()
