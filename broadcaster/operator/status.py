"""What a broadcaster says of itself to its operator: frozen values, and their JSON form on the control socket."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True, slots=True)
class PoolNode:
    """One node of the pool: its `state` (up, down, refuses) for `since_s` seconds, and why it is not up.

    `node_id` is its address while it has never answered. `skew_s`: how far its clock is ahead of this machine's.
    `jobs`: those of this broadcaster that are there now.
    """

    node_id: str
    address: str
    state: str
    reason: str = ""
    since_s: float = 0.0
    skew_s: float | None = None
    jobs: int = 0
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BroadcasterStatus:
    """A broadcaster at one moment, up for `since_s` seconds. `problem`: why it is not ready, empty when it is.

    `keys`: how many API keys it knows; None where it asks for none. `skew_warn_s`: what a clock may differ by.
    """

    broadcaster_id: str
    url: str
    version: str
    draining: bool
    since_s: float
    jobs: int = 0
    problem: str = ""
    keys: int | None = None
    journal_backlog: int = 0
    skew_warn_s: float = 0.0
    nodes: tuple[PoolNode, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether no job is here any more."""
        return self.jobs == 0


_STATUS = TypeAdapter(BroadcasterStatus)


def to_document(status: BroadcasterStatus | PoolNode) -> dict[str, Any]:
    """A status as JSON has it: the fields by their names."""
    return dataclasses.asdict(status)


def from_document(document: object) -> BroadcasterStatus:
    """The status in a JSON document; what a newer one adds is left out. Raises ValueError when it is none."""
    try:
        return _STATUS.validate_python(document)
    except ValidationError as error:
        raise ValueError(f"not a broadcaster's status ({error.error_count()} faults)") from None
