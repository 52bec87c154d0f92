"""What is measured, behind one port: a broadcaster, a node, a runner; one job at a time through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from benchmark.client import JobSpec
from reelnet.parameters import Params

Kind = Literal["broadcaster", "orchestrator", "runner"]
Clock = Literal["benchmark", "broadcaster", "node"]
OWN_STAGES: Mapping[Kind, frozenset[str]] = {
    "broadcaster": frozenset({"total", "download"}),
    "orchestrator": frozenset({"total", "accept", "wait", "node_run"}),
    "runner": frozenset({"total"}),
}
"""Stages that the benchmark times itself, by what it measures."""


@dataclass(frozen=True, slots=True)
class Order:
    """One job to be sent, and where its outputs are to be written. `params` are complete; `spec` is the same job.

    `place` numbers the jobs of a measurement as they were made.
    """

    seed: int
    place: int
    spec: JobSpec
    params: Params
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Delivered:
    """A job that came back, unchecked: `outputs` are the files with the media types that they claim.

    `total_s` is from the request to the end of the job. `timings_s` by stage: `clock_of` says whose they are.
    `price_nano` is None where nothing is sold. `cold` says that a model was loaded for it.
    """

    node: str
    total_s: float
    outputs: tuple[tuple[Path, str], ...]
    price_nano: int | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)
    cold: bool = False


class Lane(Protocol):
    """One thing that is measured. `name` is a node's id, or what else tells it from the others."""

    @property
    def name(self) -> str: ...

    async def run(self, order: Order) -> Delivered:
        """The job, with its outputs in the order's files. Raises the ReelnetError that it failed with."""
        ...


def clock_of(kind: Kind, stage: str) -> Clock:
    """Who measured a stage: a node's own figures are its word, and a broadcaster's are the broadcaster's."""
    if kind == "broadcaster" and stage == "node_run":
        return "broadcaster"
    return "benchmark" if stage in OWN_STAGES[kind] else "node"
