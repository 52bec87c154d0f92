"""The port to whatever runs runners: a lifecycle (fingerprint, start, wait, stop, recover), not an engine's API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from reelnet.errors import StartError


@dataclass(frozen=True, slots=True)
class RunnerSpec:
    """What to run: one model on one device. `folder` is the slot's own, where the runner's socket comes to lie."""

    slot: str
    model_id: str
    model: str
    backend: str
    device: str
    folder: Path
    pipelines: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunnerHandle:
    """A running runner. All of it can be written down, so that a restarted node finds its runners again."""

    engine: str
    slot: str
    ref: str
    socket: Path


@dataclass(frozen=True, slots=True)
class RunnerExit:
    """How a runner ended: its exit code (negative: the signal), and the last lines that it said."""

    code: int
    tail: str = ""


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
        """Returns when the runner has ended; at once if it already has."""

    async def stop(self, handle: RunnerHandle, grace_s: float) -> None:
        """Ends the runner: politely, after `grace_s` by force. Returns when it is gone; no error if it already was."""

    async def recover(self) -> list[RunnerHandle]:
        """The runners of this node that an earlier start left running, for adoption."""

    async def close(self) -> None:
        """Ends every runner that is still there and gives everything back."""
