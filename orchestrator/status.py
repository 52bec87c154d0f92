"""What a node says of itself to its operator: frozen values, and their JSON form on the control socket."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """One slot: its runner's `state` for `since_s` seconds, why it is not ready, and the job that holds it.

    `memory_bytes` is the model's measured memory; `p50_s` and `p95_s` are seconds of the newest jobs' runs.
    """

    slot: str
    model: str
    device: str
    state: str
    reason: str = ""
    since_s: float = 0.0
    restarts: int = 0
    job_id: str | None = None
    stage: str | None = None
    step: int | None = None
    total: int | None = None
    memory_bytes: int | None = None
    jobs_per_h: float | None = None
    p50_s: float | None = None
    p95_s: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device as its driver sees it; None where that is not known. `utilisation` is a share, 0 to 1."""

    name: str
    uuid: str | None = None
    title: str = ""
    memory_used_bytes: int | None = None
    memory_bytes: int | None = None
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One configured model. `loaded` of its `replicas` are in memory; without `warm` it is loaded when a job asks.

    `prices` are dollars by rate, by pipeline; `digest` is empty until a runner has loaded the model. `problem`: what
    keeps it from being loaded, as its folder is.
    """

    model: str
    warm: bool = True
    replicas: int = 1
    loaded: int = 0
    device: str | None = None
    digest: str = ""
    memory_bytes: int | None = None
    queued: int = 0
    queue: int = 0
    prices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class WatcherStatus:
    """A broadcaster that watches the node, by the id that it says, and whether it is served.

    `skew_s`: how far its clock is ahead of this machine's; None where it does not say.
    """

    id: str
    served: bool = True
    skew_s: float | None = None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node at one moment, up for `since_s` seconds. `jobs` counts what is here: waiting, running, or on its way out.

    `address` is host:port#id, as broadcasters name the node. `drained` is the operator's word, which survives restarts;
    a node that stops drains too. `skew_warn_s`: what clocks may differ by.
    """

    node_id: str
    address: str
    version: str
    engine: str
    draining: bool
    since_s: float
    slots: tuple[SlotStatus, ...] = ()
    devices: tuple[DeviceStatus, ...] = ()
    models: tuple[ModelStatus, ...] = ()
    jobs: int = 0
    queued: int = 0
    watchers: tuple[WatcherStatus, ...] = ()
    skew_warn_s: float = 0.0
    drained: bool = False

    @property
    def idle(self) -> bool:
        """Whether no job is here any more."""
        return self.jobs == 0 and not any(slot.job_id for slot in self.slots)


_STATUS = TypeAdapter(NodeStatus)


def to_document(status: NodeStatus | ModelStatus) -> dict[str, Any]:
    """A status as JSON has it: the fields by their names."""
    return dataclasses.asdict(status)


def from_document(document: object) -> NodeStatus:
    """The status in a JSON document; what a newer node adds is left out. Raises ValueError when it is none."""
    try:
        return _STATUS.validate_python(document)
    except ValidationError as error:
        raise ValueError(f"not a node's status ({error.error_count()} faults)") from None
