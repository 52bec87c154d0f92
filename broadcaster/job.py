"""One job in the broadcaster: what was asked, what it may take, and where it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broadcaster.media import StoredMedia
from reelnet.clips import ClipFacts
from reelnet.clocks import now_ms
from reelnet.errors import ReelnetError
from reelnet.inspection import PictureFacts
from reelnet.jobs import InputRef, JobId, JobState, advance
from reelnet.parameters import SAFETY, Params
from reelnet.pipelines import MediaSpec, Pipeline, Work
from reelnet.warnings import NOT_USED, JobWarning, known_warnings

JOB_ID_BYTES = 12


@dataclass(frozen=True, slots=True)
class JobInput:
    """An input picture or clip as it goes to a node: its bytes without metadata, and how the ticket names them.

    `warnings`: what of it was left out on its way in.
    """

    ref: InputRef
    data: bytes
    facts: PictureFacts | ClipFacts
    warnings: tuple[JobWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A validated job. `params` is complete, its seed included; money is nano-dollars, times Unix milliseconds.

    `key_id` and `key_name` are those of the API key that it came with; empty for none. `given`: the parameters that the
    request named. `warnings`: what is known of the answer before a node is asked.
    """

    id: JobId
    pipeline: Pipeline
    model: str
    params: Params
    inputs: tuple[JobInput, ...]
    deadline_ms: int
    ceiling_nano: int | None
    digests: tuple[str, ...] = ()
    key_id: str = ""
    key_name: str = ""
    given: frozenset[str] = frozenset()
    warnings: tuple[JobWarning, ...] = ()
    work: Work = field(init=False)
    """The job's work units."""
    promises: tuple[MediaSpec, ...] = field(init=False)
    """What its outputs have to be."""

    def __post_init__(self) -> None:
        source = self.inputs[0].facts.source if self.inputs else None
        work, promises = self.pipeline.measure(self.params, source)
        object.__setattr__(self, "work", work)
        object.__setattr__(self, "promises", promises)

    @property
    def unadvertised(self) -> frozenset[str]:
        """The parameters with other values than their defaults, of which a capability says nothing.

        Whether a model takes one is seen when a node has the job.
        """
        fields = type(self.params).model_fields.items()
        asked = {
            name for name, field in fields if getattr(self.params, name) != field.get_default(call_default_factory=True)
        }
        return frozenset(asked - {"loras", SAFETY})

    @property
    def loras(self) -> tuple[str, ...]:
        """The LoRAs that it uses."""
        return used_loras(self.params)

    def warned(self, claimed: Iterable[JobWarning]) -> tuple[JobWarning, ...]:
        """The warnings of the job's answer, with those that a node claims and that its pipeline declares.

        A parameter that the request did not name is not missed where a model does not use it.
        """
        names = {*type(self.params).model_fields, *self.pipeline.inputs}
        asked = (each for each in claimed if each.code != NOT_USED or each.parameter in self.given)
        return known_warnings([*self.warnings, *asked], self.pipeline.warns, names)

    @property
    def preview_steps(self) -> int:
        """Steps from one preview to the next; 0 for none."""
        return getattr(self.params, "preview_steps", 0)

    def left_s(self) -> float:
        """Seconds until the deadline; not negative."""
        return max(0.0, (self.deadline_ms - now_ms()) / 1000)


@dataclass(frozen=True, slots=True)
class Result:
    """One output that was delivered, checked and kept. `nsfw` None: no safety checker has looked."""

    media: StoredMedia
    seed: int
    nsfw: bool | None


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that is over: from when to when, Unix milliseconds, and how it failed, if it did."""

    number: int
    node_id: str
    started_ms: int
    ended_ms: int
    error: ReelnetError | None
    owed_nano: int


@dataclass(slots=True)
class JobProgress:
    """A job's way through its states, and what it cost.

    `withheld`: a node delivered, and its safety checker found unsafe what nobody shall see.
    """

    request: JobRequest
    state: JobState = JobState.QUEUED
    created_ms: int = field(default_factory=lambda: now_ms())
    attempts: int = 0
    attempt_started_ms: int = 0
    node_id: str = ""
    model_digest: str = ""
    charged_nano: int = 0
    owed_nano: int = 0
    timings_s: dict[str, float] = field(default_factory=dict)
    stages_s: dict[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    warnings: tuple[JobWarning, ...] = ()
    withheld: bool = False
    delivered: bool = False
    """Whether the attempt's node has delivered everything: what takes time from then on is not its fault."""

    begun: bool = False
    """Whether a node has taken the job, or failed it: until then it is a request, of which nothing is recorded."""
    turned_away: list[EndedAttempt] = field(default_factory=list)
    """Attempts that nodes turned away before the job began."""

    def to(self, state: JobState) -> None:
        """Moves the job; the table refuses what is not allowed."""
        if state is not self.state:
            self.state = advance(self.state, state)

    @property
    def run_s(self) -> float | None:
        """Seconds that the node worked on what it delivered; None when nothing was."""
        return self.timings_s.get("node_run")

    def begin_attempt(self, node_id: str) -> None:
        """Another node is tried."""
        self.attempts += 1
        self.delivered = False
        self.node_id = node_id
        self.attempt_started_ms = now_ms()

    def ended_attempt(self, error: ReelnetError | None) -> EndedAttempt:
        """The attempt that is under way, over now."""
        owed_nano = 0 if error else self.owed_nano
        return EndedAttempt(self.attempts, self.node_id, self.attempt_started_ms, now_ms(), error, owed_nano)


def used_loras(params: Params) -> tuple[str, ...]:
    """The LoRAs that parameters ask for; a strength of 0 is off."""
    asked: Mapping[str, float] = getattr(params, "loras", {})
    return tuple(name for name, strength in asked.items() if strength)


def new_job_id() -> JobId:
    """An unguessable id that sorts by time: milliseconds, then chance."""
    return JobId(f"{now_ms():011x}{os.urandom(JOB_ID_BYTES).hex()}")
