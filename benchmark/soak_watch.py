"""What a soak reads of its pool: memory and files of its components over the run, and whether a node is idle again."""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmark.local_pool import Member

SAMPLE_S = 0.25
POLL_S = 0.1
SCRAPE_S = 5.0


class Sample(NamedTuple):
    """One line of a component's metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Reading:
    """A component after so many jobs: resident memory in bytes, open files."""

    jobs: int
    rss_bytes: int
    files: int


@dataclass(slots=True)
class Watch:
    """Reads memory and files of the components `roots` gives by name, until it is canceled; `done` counts jobs.

    `readings` are by name, then by pid: a component that was started again begins anew.
    """

    roots: Callable[[], Mapping[str, int]]
    done: Callable[[], int]
    readings: dict[str, dict[int, list[Reading]]] = field(default_factory=lambda: defaultdict(dict))

    async def run(self) -> None:
        """Never returns."""
        while True:
            self.look()
            await asyncio.sleep(SAMPLE_S)

    def look(self) -> None:
        """Reads once."""
        for name, pid in self.roots().items():
            with suppress(OSError):
                reading = Reading(self.done(), rss_bytes(pid), len(os.listdir(f"/proc/{pid}/fd")))
                self.readings[name].setdefault(pid, []).append(reading)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process (proc(5): statm counts pages, the second field is resident). Raises OSError."""
    return int(Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class NodeState:
    """What a node says of itself: its slots by state, jobs that wait, attempts that are here, bytes in the spool."""

    name: str
    slots: Mapping[str, int]
    queued: int = 0
    attempts: int = 0
    spool_bytes: int = 0
    restarts: Mapping[str, int] = field(default_factory=dict)

    @property
    def idle(self) -> bool:
        """Whether every slot is ready and nothing is left of any job."""
        return set(self.slots) <= {"ready"} and not (self.queued or self.attempts or self.spool_bytes)


def node_state(name: str, samples: Iterable[Sample]) -> NodeState:
    """The state that a node's metrics show."""
    samples = list(samples)
    return NodeState(
        name,
        slots=sums(samples, "reelnet_node_slots", "state"),
        queued=sum(sums(samples, "reelnet_node_queued_jobs", "model").values()),
        attempts=sum(sums(samples, "reelnet_node_attempts_in_progress").values()),
        spool_bytes=sum(sums(samples, "reelnet_node_spool_bytes").values()),
        restarts=sums(samples, "reelnet_node_runner_restarts_total", "reason"),
    )


def sums(samples: Iterable[Sample], name: str, label: str = "") -> dict[str, int]:
    """A metric's sums by one of its labels, those that are not 0; all together without a label."""
    found = Counter[str]()
    for sample in samples:
        if sample.name == name:
            found[sample.labels.get(label, "")] += int(sample.value)
    return {value: count for value, count in found.items() if count}


async def scrape(member: Member) -> list[Sample]:
    """A component's metrics. Raises httpx.HTTPError."""
    async with httpx.AsyncClient(timeout=SCRAPE_S, trust_env=False) as client:
        answer = (await client.get(member.metrics_url)).raise_for_status()
    families = text_string_to_metric_families(answer.text)
    return [Sample(line.name, line.labels, line.value) for family in families for line in family.samples]


async def until_idle(member: Member, within_s: float) -> NodeState:
    """A node's state when it is idle, or its last one after `within_s`. Raises httpx.HTTPError."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + within_s
    while True:
        state = node_state(member.name, await scrape(member))
        if state.idle or loop.time() > give_up:
            return state
        await asyncio.sleep(POLL_S)
