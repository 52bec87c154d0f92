"""The machine of a node: besides what every component needs of it, its Docker engine and its GPUs' driver."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic_core import from_json

from orchestrator.control_client import COMPONENT, NOUN
from orchestrator.engine import EngineError
from orchestrator.engines import docker_options
from orchestrator.gpus import DriverFacts, Gpu
from orchestrator.nvml import open_nvml
from orchestrator.settings import OrchestratorSettings
from reelnet.operating.control_client import Instance
from reelnet.operating.machine import Machine
from reelnet.settings import Listener

ANSWER_BYTES = 16 * 2**20
ASK_S = 10.0


class DriverView(Protocol):
    """A session with NVIDIA's driver."""

    gpus: tuple[Gpu, ...]
    missing: int

    def driver(self) -> DriverFacts:
        """The driver's versions."""

    def close(self) -> None:
        """Ends the session."""


DockerGet = Callable[[str], Any]
"""Answers of the Docker engine's API, parsed, by path. Raises OSError, and DockerAnswerError."""


class DockerAnswerError(Exception):
    """The engine answered with another status than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


def ask_docker(path: Path, timeout_s: float) -> DockerGet:
    """The engine behind a Unix socket."""

    def get(what: str) -> Any:
        with closing(http.client.HTTPConnection("docker", timeout=timeout_s)) as connection:
            connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.sock.settimeout(timeout_s)
            connection.sock.connect(str(path))
            connection.request("GET", what)
            answer = connection.getresponse()
            body = answer.read(ANSWER_BYTES)
        try:
            parsed = from_json(body)
        except ValueError:
            raise DockerAnswerError(answer.status, "no JSON") from None
        if answer.status != 200:
            message = parsed.get("message", "") if isinstance(parsed, dict) else ""
            raise DockerAnswerError(answer.status, str(message))
        return parsed

    return get


@dataclass(frozen=True)
class Host(Machine):
    """A machine, and the settings of the node that is to run on it. Functions raise OSError."""

    settings: OrchestratorSettings
    docker: DockerGet
    docker_socket: Path = Path("/var/run/docker.sock")
    open_driver: Callable[[], DriverView | None] = open_nvml

    @property
    def instance(self) -> Instance:
        """The node of these settings."""
        return Instance(COMPONENT, NOUN, self.settings.name, self.settings.home)

    @property
    def listeners(self) -> Mapping[str, Listener]:
        """Where broadcasters and Prometheus reach it."""
        return {"grpc": self.settings.grpc, "metrics": self.settings.metrics}

    @property
    def room(self) -> tuple[int, str]:
        """What its spool may take."""
        return self.settings.limits.spool_bytes, "limits.spool_bytes"


def this_host(settings: OrchestratorSettings) -> Host:
    """The machine that this runs on."""
    try:
        path = docker_options(settings).socket
    except EngineError as error:
        return Host(settings, _refused(error))
    return Host(settings, ask_docker(path, min(ASK_S, settings.docker.api_s)), path)


def _refused(error: EngineError) -> DockerGet:
    """The environment names an engine that cannot be used, which matters only to who asks it."""

    def get(what: str) -> Any:
        raise error

    return get
