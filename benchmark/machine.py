"""Facts of the machine that the benchmark itself runs on, and whether something else keeps it busy."""

from __future__ import annotations

import asyncio
import os
import platform
from dataclasses import dataclass
from pathlib import Path

LISTEN_S = 0.5


@dataclass(frozen=True, slots=True)
class Machine:
    """No name of a host or user. `busy` is the share of CPU time that was in use just before the measurement."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    busy: float | None


async def look_around() -> Machine:
    """This machine now; takes half a second."""
    before = _times()
    await asyncio.sleep(LISTEN_S)
    after = _times()
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        busy=_busy(before, after),
    )


def _times() -> list[int]:
    """The first line of /proc/stat (proc(5)), clock ticks: user, nice, system, idle, iowait, irq, softirq, steal."""
    try:
        return [int(word) for word in Path("/proc/stat").read_text("utf-8").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return []


def _busy(before: list[int], after: list[int]) -> float | None:
    spent = [b - a for a, b in zip(before, after, strict=False)]
    if len(spent) < 5 or sum(spent) <= 0:
        return None
    return 1 - (spent[3] + spent[4]) / sum(spent)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
