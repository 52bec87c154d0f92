"""A measurement as the command makes it, without a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from rich.console import Console

from benchmark.assessment import Assessment, assess
from benchmark.measurement import measure
from benchmark.scenario import Request
from benchmark.targets import Aim, find


async def measured(
    aim: Aim, request: Request, folder: Path, model: str | None = None, clock: Callable[[], float] = perf_counter
) -> Assessment:
    """What the command would print, turns by `clock`. The outputs are in `folder`/outputs until they are checked."""
    outputs = folder / "outputs"
    outputs.mkdir(exist_ok=True)
    async with find(aim, request, model, lambda step: None) as found:
        return assess(await measure(found, outputs, Console(file=io.StringIO()), clock=clock))
