"""A measurement as the command makes it, without a terminal."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from benchmark.assessment import Assessment, assess
from benchmark.measurement import measure
from benchmark.scenario import Request
from benchmark.targets import Aim, find


async def measured(aim: Aim, request: Request, folder: Path, model: str | None = None) -> Assessment:
    """What the command would print. The outputs are in `folder`/outputs until they are checked."""
    outputs = folder / "outputs"
    outputs.mkdir(exist_ok=True)
    async with find(aim, request, model, lambda step: None) as found:
        return assess(await measure(found, outputs, Console(file=io.StringIO())))
