"""The `benchmark` command."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from benchmark import options, report
from benchmark.assessment import Assessment, assess
from benchmark.client import KEY_VARIABLE
from benchmark.document import document
from benchmark.interruption import unless_stopped
from benchmark.local_pool import LeftoverError
from benchmark.measurement import measure
from benchmark.scenario import Request, plan
from benchmark.targets import DEFAULT_URL, Aim, find
from reelnet.errors import ConfigError
from reelnet.lifecycle import EXIT_DONE, EXIT_FAILED
from reelnet.lifecycle import report as report_error
from reelnet.lifecycle import run as run_until_done
from reelnet.operating.console import to_terminal

cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Task:
    """What the command line asks for."""

    aim: Aim
    request: Request
    model: str | None
    reference: float | None


@cli.command(epilog="Example: benchmark --pipeline image-to-video --runs 20 --concurrency 2 --json report.json")
def benchmark(
    pipeline: Annotated[str, typer.Option(help="text-to-image, image-to-video, …", metavar="NAME")],
    target: Annotated[
        str, typer.Option(help="auto, broadcaster, orchestrator (nodes, side by side) or runner.", metavar="KIND")
    ] = "auto",
    url: Annotated[str | None, typer.Option(help=f"Broadcaster; default: {DEFAULT_URL}.")] = None,
    node: Annotated[list[str] | None, typer.Option(help="A node's host:port or host:port#id; repeat it.")] = None,
    runner: Annotated[list[Path] | None, typer.Option(help="A runner's Unix socket; repeat it.")] = None,
    identity: Annotated[Path | None, typer.Option(help="Key that signs for --node; default: a new one.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help=f"The API key of a broadcaster; default: ${KEY_VARIABLE}.", metavar="FILE")
    ] = None,
    local_pool: Annotated[bool, typer.Option("--local-pool", help="Start a pool even where one answers.")] = False,
    backend: Annotated[str | None, typer.Option(help="Of a local pool: tiny or synthetic.")] = None,
    nodes: Annotated[int | None, typer.Option(help="Of a local pool; default: 1.", min=1, max=16)] = None,
    speeds: Annotated[str | None, typer.Option(help="A synthetic local pool, side by side: 1,1,2,4.")] = None,
    model: Annotated[str | None, typer.Option(help="Model id; default: the one most nodes serve.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    size: Annotated[str | None, typer.Option(help="WxH, pixels.", metavar="WxH")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip.")] = None,
    runs: Annotated[int | None, typer.Option(help="Jobs that count, for each node; default: 10.", min=1)] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds, instead of --runs.", min=0.1)] = None,
    warmup: Annotated[int, typer.Option(help="Jobs before them that do not count.", min=0)] = 1,
    concurrency: Annotated[int, typer.Option(help="Jobs at a time.", min=1, max=1024)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first run; run i has seed + i.", min=0)] = 0,
    reference: Annotated[
        float | None, typer.Option(help="Mpx·steps/s that score 1; default: of the model.", min=1e-9)
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report there.")] = None,
) -> None:
    """Measures a pool, nodes or runners: throughput, latency by stage, failures, price, score; checks every output.

    Exit codes: 0 all runs good, 1 some failed or an output was wrong, 2 usage, 3 cannot start.
    """
    try:
        request = Request(
            options.parse_pipeline(pipeline),
            steps,
            options.parse_size(size) if size else None,
            frames,
            options.runs_of(runs, duration),
            warmup,
            concurrency,
            seed,
            duration,
        )
        plan(request, model or "")  # a wrong option is found before seconds are spent on a pool
        pool = options.PoolOptions(backend, nodes, speeds, local_pool)
        named = options.Named(target, url, tuple(node or ()), tuple(runner or ()), identity, key_file)
        aim = options.aim(named, pool, concurrency)
        options.check_writable(json_file)
    except ConfigError as error:
        raise typer.Exit(report_error(error)) from None
    raise typer.Exit(_run(Task(aim, request, model, reference), json_file))


def _run(task: Task, json_file: Path | None) -> int:
    result: Assessment | None = None

    async def main(stopping: asyncio.Event) -> None:
        nonlocal result
        result = await unless_stopped(stopping, _measure(task))

    try:
        if code := run_until_done(main):
            return code
    except LeftoverError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_FAILED
    if result is None:
        sys.stderr.write("interrupted: no result\n")
        return EXIT_FAILED
    report.show(result, to_terminal())
    if json_file:
        json_file.write_text(document(result, version("reelnet")).model_dump_json(indent=1) + "\n", "utf-8")
    return EXIT_DONE if result.good else EXIT_FAILED


async def _measure(task: Task) -> Assessment:
    console = to_terminal(stderr=True)
    with tempfile.TemporaryDirectory(prefix="reelnet-bench-") as folder:
        aim = options.placed(task.aim, Path(folder, "pool"))
        async with find(aim, task.request, task.model, console.print) as found:
            console.print(f"measuring {found.kind} {found.where}", soft_wrap=True)
            measured = await measure(found, Path(folder), console, task.reference)
    return await asyncio.to_thread(assess, measured)


def main() -> None:
    """The console command."""
    sys.exit(cli())


if __name__ == "__main__":
    main()
