"""The port to whatever runs runners: a lifecycle (fingerprint, start, wait, stop, recover), not an engine's API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from reelnet.errors import StartError


@dataclass(frozen=True, slots=True)
class Resources:
    """What a runner may use of its host. The process engine bounds none of it.

    `memory_bytes` None leaves the bound to the engine; `idle_exit_s` ends a runner whose node asks nothing any more.
    """

    memory_bytes: int | None = None
    shm_bytes: int = 1024**3
    pids: int = 4096
    idle_exit_s: float = 120


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """What to run: one model on one device. `folder` is the slot's own, where the runner's socket comes to lie.

    `gpu` is the UUID of a GPU or of a slice of one, None on a CPU; `flags` are settings of the runner by name.
    """

    slot: str
    model_id: str
    model: str
    backend: str
    device: str
    folder: Path
    pipelines: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    gpu: str | None = None
    image: str | None = None
    flags: Mapping[str, str] = field(default_factory=dict)
    resources: Resources = Resources()

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) over all but the folder: a runner of an equal one can be adopted as it runs."""
        told = {**asdict(self), "folder": None}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class RunnerHandle:
    """A running runner. All of it can be written down, so that a restarted node finds its runners again.

    `fingerprint` is its spec's, or empty when the runner cannot be adopted any more.
    """

    engine: str
    slot: str
    ref: str
    socket: Path
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class RunnerExit:
    """How a runner ended: its exit code (negative: the signal), and the last lines that it said.

    `why` is the engine's own explanation, empty when it has none.
    """

    code: int
    tail: str = ""
    oom_killed: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine found out about itself."""

    name: str
    version: str


class EngineError(StartError):
    """The engine cannot do what was asked; the text says what the operator can do."""


class RunnerEngine(Protocol):
    """Starts and ends runners. Every method may be called again after it failed."""

    async def fingerprint(self) -> EngineFacts:
        """Checks that the engine works. Raises EngineError otherwise."""

    async def start(self, spec: RunnerSpec) -> RunnerHandle:
        """Starts a runner; returns before it is ready. Raises EngineError."""

    async def wait(self, handle: RunnerHandle) -> RunnerExit:
        """Returns when the runner has ended; at once if it already has. Goes on while the engine is away."""

    async def stop(self, handle: RunnerHandle, grace_s: float) -> None:
        """Ends the runner: politely, after `grace_s` by force. Returns when it is gone; no error if it already was.

        An engine that does not answer is given up: what it still holds is removed at the slot's next start.
        """

    async def recover(self) -> list[RunnerHandle]:
        """The runners of this node that an earlier start left running, for adoption. Removes those that ended."""

    async def logs(self, handle: RunnerHandle, lines: int) -> str:
        """The last `lines` lines that the runner said; empty when they are gone."""

    async def close(self) -> None:
        """Ends every runner that is still there and gives everything back."""
