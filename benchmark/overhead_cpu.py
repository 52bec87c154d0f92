"""CPU time of a benchmark's servers by role, and of everything else on the machine, from /proc (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.processes import family

ROLE_OF_CHILD = {"broadcaster": "checker", "node": "runner"}
"""What a component's own children are."""


def cpu_ticks(stat: str) -> int:
    """Clock ticks that a process has used, from its /proc/PID/stat (proc(5): utime is field 14, stime 15)."""
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may hold anything
    return int(fields[11]) + int(fields[12])


def busy_ticks(stat: str) -> int:
    """Clock ticks that all cores were in use, from /proc/stat (proc(5): idle is field 4, iowait 5, steal 8)."""
    words = [int(word) for word in stat.split("\n", 1)[0].split()[1:9]]
    return sum(words) - words[3] - words[4]


@dataclass(frozen=True, slots=True)
class Reading:
    """CPU seconds so far: of the servers by role, of this process, of the whole machine; and the time, seconds."""

    servers: Mapping[str, float]
    own: float
    machine: float
    at: float


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds between two readings. `others` is the share of the machine that neither servers nor load used."""

    servers: Mapping[str, float]
    others: float


def read(roots: Mapping[str, int]) -> Reading:
    """Now: the servers whose roles and pids are `roots`, with what they have started."""
    hertz = os.sysconf("SC_CLK_TCK")
    servers = {role: sum(map(_ticks, pids)) / hertz for role, pids in _by_role(roots).items()}
    own = sum(os.times()[:2])
    machine = busy_ticks(Path("/proc/stat").read_text("utf-8")) / hertz
    return Reading(servers, own, machine, time.monotonic())


def spent(before: Reading, after: Reading, cores: int) -> Spent:
    """What was used between two readings of the same servers."""
    servers = {role: after.servers.get(role, 0.0) - seconds for role, seconds in before.servers.items()}
    ours = sum(servers.values()) + after.own - before.own
    others = after.machine - before.machine - ours
    return Spent(servers, max(0.0, others / max(1e-9, (after.at - before.at) * cores)))


def _by_role(roots: Mapping[str, int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for role, root in roots.items():
        for process in sorted(family([root])):
            name = role if process.pid == root else ROLE_OF_CHILD.get(role, role)
            found.setdefault(name, []).append(process.pid)
    return found


def _ticks(pid: int) -> int:
    try:
        return cpu_ticks(Path("/proc", str(pid), "stat").read_text("utf-8", "replace"))
    except OSError:
        return 0
