"""Runs fuzzers: seeded cases over one edge each, until a count or a time, and what they found."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

CPU_S = 1.5
"""A case that takes more of this process's CPU has found unbounded work: an honest one takes milliseconds."""
FINDINGS = 3
"""An edge is left after so many, where nobody asks for another number."""

Case = Callable[[random.Random], Awaitable[None]]
"""One case: makes input by chance and gives it to the edge. Any exception that it raises is a finding."""
Edge = Callable[[Path], AbstractAsyncContextManager[Case]]
"""Sets an edge up in a folder of its own, gives the case, and takes everything down."""


class FoundError(AssertionError):
    """The edge did what it must not."""


@dataclass
class Result:
    """What a run over one edge did. `found` has the case's seed and what went wrong."""

    cases: int = 0
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)


async def fuzz(
    edge: Edge, folder: Path, seed: str, *, cases: int = 2**62, seconds: float = 1e9, findings: int = FINDINGS
) -> Result:
    """So many cases, or for so long; the same seed makes the same cases."""
    result, began = Result(), time.monotonic()
    async with edge(folder) as case:
        while result.cases < cases and result.seconds < seconds and len(result.found) < findings:
            name = f"{seed}:{result.cases}"
            if found := await _try(case, name):
                result.found.append(f"case {name}, after {time.monotonic() - began:.1f} s: {found}")
            result.cases += 1
            result.seconds = time.monotonic() - began
    return result


async def _try(case: Case, name: str) -> str:
    cpu = time.thread_time()
    try:
        await case(random.Random(name))
    except Exception:
        return traceback.format_exc(limit=-4)
    took_s = time.thread_time() - cpu
    return f"{took_s:.1f} s of CPU" if took_s > CPU_S else ""


def require(held: object, what: str) -> None:
    """Raises FoundError when the rule does not hold."""
    if not held:
        raise FoundError(what)
