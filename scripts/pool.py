"""A pool to try on this machine: a broadcaster and some nodes, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.interruption import unless_stopped
from benchmark.local_pool import Backend, LeftoverError, LocalPool, PoolPlan
from reelnet.lifecycle import EXIT_FAILED, EXIT_USAGE, run
from reelnet.operating.console import to_terminal

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "pool"
ID_CHARS = 10
TEXT_TO_IMAGE = '{"prompt": "a lighthouse at dawn", "width": 512, "height": 512, "num_inference_steps": 20, "seed": 1}'
IMAGE_TO_VIDEO = (
    "-F width=256 -F height=256 -F num_frames=6 -F num_inference_steps=4 -F seed=1 -F image=@examples/rocket.jpg"
)


class DiedError(Exception):
    """A component has ended by itself."""


def main(
    nodes: Annotated[int, typer.Option(help="Nodes.", min=1, max=16)] = 2,
    backend: Annotated[str, typer.Option(help="tiny (true model code, random weights) or synthetic.")] = "tiny",
    port: Annotated[int, typer.Option(help="The broadcaster's port; 0 takes a free one.", min=0, max=65535)] = 9935,
) -> None:
    """Starts a pool to try, and stops all of it at the end.

    Exit codes: 0 stopped, 1 a component died, 2 usage, 3 cannot start. Example: make pool NODES=2 BACKEND=synthetic
    """
    if backend not in get_args(Backend):
        sys.stderr.write(f"error: BACKEND: expected tiny or synthetic, found {backend!r}\n")
        raise typer.Exit(EXIT_USAGE)
    plan = PoolPlan(
        home=OUT / f"port-{port}",
        models=OUT / "models",
        nodes=nodes,
        backend=cast(Backend, backend),
        broadcaster_port=port,
    )
    try:
        code = run(lambda stopping: serve(plan, stopping))
    except (DiedError, LeftoverError) as error:
        sys.stderr.write(f"error: {error}\n")
        code = EXIT_FAILED
    raise typer.Exit(code)


async def serve(plan: PoolPlan, stopping: asyncio.Event) -> None:
    """Runs the pool until `stopping`. Raises DiedError when a component ends before."""
    console = to_terminal()
    await unless_stopped(stopping, _serve(plan, console))
    console.print("stopped; no process is left")


async def _serve(plan: PoolPlan, console: Console) -> None:
    async with LocalPool(plan, lambda step: console.print(f"{step} …")) as pool:
        show(pool, console)
        raise DiedError(await pool.failed())


def show(pool: LocalPool, console: Console) -> None:
    """Where the pool answers, and lines to paste."""
    table = Table("component", "pid", "address", "log")
    for member in pool.members:
        address, _, node_id = member.address.partition("#")
        about = f"{address} {node_id[:ID_CHARS]}".strip()
        table.add_row(
            *(Text(cell, overflow="fold") for cell in (member.name, str(member.pid), about, _near(member.log)))
        )
    console.print(table)
    console.print(f"The API: {pool.url}/models. To try it, paste in {_near(ROOT)}:", soft_wrap=True)
    for line in (
        f"curl -s {pool.url}/text-to-image -H 'content-type: application/json' -d '{TEXT_TO_IMAGE}'",
        f"curl -s {pool.url}/image-to-video {IMAGE_TO_VIDEO}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)  # not wrapped: it has to paste as one line
    console.print("Ctrl-C stops everything.")


def _near(path: Path) -> str:
    """The path as seen from here, where it lies below."""
    here = Path.cwd()
    if path == here:
        return "this folder"
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


if __name__ == "__main__":
    typer.run(main)
