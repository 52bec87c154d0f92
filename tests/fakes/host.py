"""A machine for the doctor on which all is well; a test breaks one thing of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.gpus import DriverFacts, Gpu
from orchestrator.host import DockerAnswerError, Host
from orchestrator.settings import OrchestratorSettings
from reelnet.operating.machine import ClockFacts

GIB = 2**30
IMAGE = "reelnet-runner@sha256:" + "a" * 64
CARD = Gpu("GPU-0a", "NVIDIA H200", 0, 141 * GIB)


@dataclass
class ScriptedDocker:
    """Answers by path; an exception as an answer is raised."""

    answers: dict[str, Any] = field(
        default_factory=lambda: {
            "/version": {"Version": "28.2.2", "ApiVersion": "1.50"},
            "/info": {"CgroupVersion": "2", "LiveRestoreEnabled": True, "DockerRootDir": "/var/lib/docker"},
            f"/images/{IMAGE}/json": {"Id": "sha256:" + "b" * 64, "Size": 7 * GIB},
        }
    )

    def __call__(self, path: str) -> Any:
        answer = self.answers.get(path, DockerAnswerError(404, "no such thing"))
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class ScriptedDriver:
    """A session with a driver."""

    gpus: tuple[Gpu, ...] = (CARD,)
    missing: int = 0
    cuda: str | None = "13.0"
    closed: int = 0

    def driver(self) -> DriverFacts:
        return DriverFacts("580.65.06", self.cuda)

    def close(self) -> None:
        self.closed += 1


def settings(home: Path, **values: Any) -> OrchestratorSettings:
    """A node's settings."""
    models = [{"model": "synthetic/bars", "backend": "synthetic"}]
    return OrchestratorSettings.model_validate({"home": home, "name": "a", "models": models, **values})


def sound_host(home: Path, changes: Mapping[str, Any] | None = None, **values: Any) -> Host:
    """A machine with a GPU, Docker and room; `values` are the node's settings, `changes` what is different of it."""
    host = Host(
        settings(home, **values),
        ScriptedDocker(),
        python=(3, 11, 2),
        free_bytes=lambda path: 500 * GIB,
        memory_bytes=lambda: 64 * GIB,
        open_driver=ScriptedDriver,
        which=lambda name: f"/usr/bin/{name}",
        clock=lambda: ClockFacts(synchronised=True, error_s=0.01),
        try_port=lambda listener: None,
        user_of_port=lambda port: None,
        environ={},
    )
    return replace(host, **(changes or {}))
