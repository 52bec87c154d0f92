"""The frozen values that both sides speak of: job states, capabilities, load, tickets' contents and a job's events."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NewType

from reelnet.pipelines import Work
from reelnet.pricing import Rates
from reelnet.warnings import JobWarning

if TYPE_CHECKING:
    from reelnet.identity import Signed

JobId = NewType("JobId", str)
NodeId = NewType("NodeId", str)
BroadcasterId = NewType("BroadcasterId", str)


class JobState(enum.StrEnum):
    """Where a job is. Every job reaches exactly one terminal state."""

    QUEUED = "queued"
    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


HELD_S = 0.005
"""So long an event may be held for company on its way from a runner to a broadcaster."""
MAX_PREVIEW_BYTES = 64 * 1024
MAX_PREVIEW_SIDE = 512
"""Most bytes and most pixels a side of a preview, wherever it passes."""
TERMINAL: frozenset[JobState] = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED, JobState.EXPIRED},
)

_ENDS = frozenset({JobState.FAILED, JobState.CANCELED, JobState.EXPIRED})
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        # A node that fails or refuses a job sends it back to QUEUED for the next one.
        JobState.QUEUED: _ENDS | {JobState.ASSIGNED},
        JobState.ASSIGNED: _ENDS | {JobState.RUNNING, JobState.QUEUED},
        JobState.RUNNING: _ENDS | {JobState.SUCCEEDED, JobState.QUEUED},
        JobState.SUCCEEDED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.CANCELED: frozenset(),
        JobState.EXPIRED: frozenset(),
    }
)


class IllegalTransitionError(RuntimeError):
    """A job was told to go where its state does not lead: a fault of this program."""


def advance(state: JobState, to: JobState) -> JobState:
    """`to`, if the table allows it from `state`. Raises IllegalTransitionError otherwise."""
    if to not in TRANSITIONS[state]:
        raise IllegalTransitionError(f"a job cannot go from {state} to {to}")
    return to


@dataclass(frozen=True, slots=True)
class Licence:
    """A model's licence: an SPDX id or LicenseRef; `commercial` use is yes, no, conditional or unknown."""

    id: str = "LicenseRef-unknown"
    commercial: str = "unknown"


@dataclass(frozen=True, slots=True)
class Capability:
    """One pipeline of one model that a node serves, and at what rates.

    `loras`: the LoRAs that jobs may use, id → sha256 of the file as hex, empty where the node does not tell it.
    `features`: what it has beside the pipeline (see `reelnet.parameters`).
    """

    pipeline: str
    schema: str
    model: str
    model_digest: str
    rates: Rates
    licence: Licence = Licence()
    loras: Mapping[str, str] = field(default_factory=dict)
    slots: int = 1
    queue_limit: int = 0
    memory_bytes: int = 0
    features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Description:
    """What a node says of itself under its signature; `epoch` is new at each start, `sequence` at each change."""

    node_id: NodeId
    epoch: str
    sequence: int
    protocol_min: int
    protocol_max: int
    capabilities: tuple[Capability, ...]
    software: str = ""


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """How full one (pipeline, model) of a node is. `wait_s` is the node's own estimate of a new job's queue time."""

    pipeline: str
    model: str
    free_slots: int
    in_flight: int
    queued: int
    warm: bool
    wait_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """A node's unsigned, quickly changing figures. A draining node takes no new job."""

    models: tuple[ModelLoad, ...] = ()
    draining: bool = False


@dataclass(frozen=True, slots=True)
class InputRef:
    """An input that follows a ticket: its name in the pipeline, size in bytes, sha256 (hex) and media type."""

    name: str
    size: int
    sha256: str
    media_type: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """One attempt of one job, promised to one start of one node. Times are Unix milliseconds, money nano-dollars.

    `lora_digests`: sha256 (hex) of each LoRA that the job uses, by its id.
    """

    job_id: JobId
    attempt: int
    broadcaster_id: BroadcasterId
    node_id: NodeId
    node_epoch: str
    pipeline: str
    schema: str
    model: str
    model_digest: str
    params: bytes
    inputs: tuple[InputRef, ...]
    work: Work
    rates: Rates
    ceiling_nano: int
    deadline_ms: int
    expires_ms: int
    linger_s: int = 0
    lora_digests: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a peer has to sign to prove that it is there now. `audience` is the asker's id, `expires_ms` Unix time."""

    nonce: bytes
    audience: str
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a node says that it has delivered for a ticket; money nano-dollars.

    `outputs` are sha256 (hex) in order, `ticket` that of the ticket's bytes.
    """

    job_id: JobId
    attempt: int
    broadcaster_id: BroadcasterId
    node_id: NodeId
    outputs: tuple[str, ...]
    price_nano: int
    model_digest: str
    ticket: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The node has reserved a place: the call is the reservation. `price_nano` is the node's quote."""

    position: int
    eta_s: float
    price_nano: int


@dataclass(frozen=True, slots=True)
class Queued:
    """The job's place in the node's queue changed; 0 is next."""

    position: int
    eta_s: float


@dataclass(frozen=True, slots=True)
class Started:
    """A runner began to work on the job. `cold` says that it had to load its model for it."""

    cold: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """Work done: `step` of `total` in a stage (load, denoise, decode, encode)."""

    stage: str
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Preview:
    """A small JPEG of output `index` after `step` of its `total` denoising steps."""

    data: bytes
    index: int = 0
    step: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """One result begins; its bytes follow as chunks. sha256 is hex. `nsfw` None: no safety checker has looked."""

    index: int
    media_type: str
    size: int
    sha256: str
    seed: int
    nsfw: bool | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of the output that began last."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The attempt delivered everything. `facts` says how it was made (class, versions); a node's word only.

    `receipt` is the node's signed Receipt.
    """

    timings_s: Mapping[str, float]
    price_nano: int
    model_digest: str
    facts: Mapping[str, str] = field(default_factory=dict)
    receipt: Signed | None = None
    warnings: tuple[JobWarning, ...] = ()


Event = Accepted | Queued | Started | Progress | Preview | Output | Chunk | Done


def run_s(heard_s: float, claimed_s: float, whole_s: float) -> float:
    """Seconds of a run for who listens to it, over 0: from `Started` to `Done` as heard, and what `Started` was held.

    It may be held for company, in the runner and in the node, for HELD_S in all. The node's own figure says for how
    long, so far as it is believed: to make a run look shorter than it was heard, no word helps. `whole_s`, over 0, is
    the time from the ticket on.
    """
    return max(heard_s, min(claimed_s or HELD_S, heard_s + HELD_S, whole_s))
