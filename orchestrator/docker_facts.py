"""What the Docker engine's answers mean: whether it suits, and how a container ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.engine import EngineError, RunnerExit

SIGNAL_BASE = 128
"""A container that a signal ended reports this much more than the signal's number."""
SIGNALS = 64
MEMORY_SHARE = 0.9
"""Share of the host's memory that a runner gets which nobody gave a bound."""
NO_INIT = "N/A"
"""What an engine says of its docker-init when there is none."""
LOST = (
    "the Docker engine stopped and took its containers along; with `live-restore` in its configuration they would "
    "have gone on"
)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What matters of an engine and its host."""

    version: str
    memory_bytes: int
    live_restore: bool
    init: bool


def host_facts(info: Mapping[str, Any]) -> HostFacts:
    """Reads the answer of `GET /info`. Raises EngineError for an engine that cannot run runners of this node."""
    if reason := _unsuited(info):
        raise EngineError(f"the Docker engine does not suit: {reason}")
    return HostFacts(
        version=str(info.get("ServerVersion", "")),
        memory_bytes=int(info.get("MemTotal") or 0),
        live_restore=bool(info.get("LiveRestoreEnabled")),
        init=(info.get("InitCommit") or {}).get("ID") != NO_INIT,
    )


def memory_bound(asked: int | None, facts: HostFacts) -> int:
    """Bytes that a runner may use: as configured, else most of the host's; 0 (no bound) if nobody knows."""
    return asked or int(facts.memory_bytes * MEMORY_SHARE)


def exit_of(container: Mapping[str, Any], tail: str, *, engine_lost: bool) -> RunnerExit:
    """How a container ended, from the answer of `GET /containers/{id}/json`."""
    state = container["State"]
    code = int(state["ExitCode"])
    if SIGNAL_BASE < code <= SIGNAL_BASE + SIGNALS:
        code = SIGNAL_BASE - code
    oom_killed = bool(state.get("OOMKilled"))
    why = str(state.get("Error") or "")
    if oom_killed:
        why = _out_of_memory(int(container["HostConfig"].get("Memory") or 0))
    elif engine_lost:
        why = LOST
    return RunnerExit(code, tail, oom_killed, why)


def _out_of_memory(bound: int) -> str:
    return (
        f"the kernel killed it at its bound of {bound / 2**30:.1f} GiB of memory; raise `memory_bytes`, "
        "or serve a smaller model"
    )


def _unsuited(info: Mapping[str, Any]) -> str:
    security = [str(option) for option in info.get("SecurityOptions") or []]
    if info.get("OSType", "linux") != "linux":
        return f"it runs {info['OSType']} containers; runners need Linux"
    if "Docker Desktop" in str(info.get("OperatingSystem", "")):
        return "it is Docker Desktop, whose virtual machine does not share a runner's Unix socket with this host"
    if any(option.startswith("name=rootless") for option in security):
        return "it is rootless, and maps users so that a runner could not share its socket; use the system's engine"
    if any(option.startswith("name=userns") for option in security):
        return "it maps users (userns-remap), so that a runner could not share its socket; turn that off"
    return ""
