"""The machine as `doctor` and `init` see it: every fact by a function that a test can replace."""

from __future__ import annotations

import ctypes
import http.client
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic_core import from_json

from orchestrator.engine import EngineError
from orchestrator.engines import docker_options
from orchestrator.gpus import DriverFacts, Gpu
from orchestrator.nvml import open_nvml
from orchestrator.settings import OrchestratorSettings
from reelnet.home import state_home
from reelnet.host_memory import host_memory_bytes
from reelnet.settings import Listener

ANSWER_BYTES = 16 * 2**20
ASK_S = 10.0
CLOCK_UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2)."""
LISTENING = "0A"
"""A listening socket's state in /proc/net/tcp."""


class DriverView(Protocol):
    """A session with NVIDIA's driver."""

    gpus: tuple[Gpu, ...]
    missing: int

    def driver(self) -> DriverFacts:
        """The driver's versions."""

    def close(self) -> None:
        """Ends the session."""


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """What the kernel says of its clock: whether something keeps it right, and by how many seconds it may be wrong."""

    synchronised: bool
    error_s: float


@dataclass(frozen=True, slots=True)
class PortUser:
    """A process that listens on a port."""

    pid: int
    program: str


DockerGet = Callable[[str], Any]
"""Answers of the Docker engine's API, parsed, by path. Raises OSError, and DockerAnswerError."""


class DockerAnswerError(Exception):
    """The engine answered with another status than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status


def kernel_clock() -> ClockFacts | None:
    """What adjtimex(2) says; None where it says nothing."""
    timex = (ctypes.c_char * 256)()  # modes = 0: nothing is set. maxerror is the fourth long, status the sixth field
    try:
        if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
            return None
    except (OSError, AttributeError):
        return None
    step = ctypes.sizeof(ctypes.c_long)
    max_error_us = ctypes.c_long.from_buffer(timex, 3 * step).value
    status = ctypes.c_int.from_buffer(timex, 5 * step).value
    return ClockFacts(not status & CLOCK_UNSYNCHRONISED, max_error_us / 1e6)


def try_port(listener: Listener) -> None:
    """Raises OSError when nobody could listen there now."""
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((listener.host, listener.port))
        sock.listen(1)


def user_of_port(port: int, proc: Path = Path("/proc")) -> PortUser | None:
    """The process that listens on a TCP port; None when it cannot be known, as for another user's. Format: proc(5)."""
    inodes = {f"socket:[{row[9]}]" for row in _tcp_rows(proc) if row[3] == LISTENING and _port(row[1]) == port}
    if not inodes:
        return None
    for folder in proc.glob("[0-9]*"):
        with suppress(OSError):
            if any(os.readlink(link) in inodes for link in (folder / "fd").iterdir()):
                return PortUser(int(folder.name), (folder / "comm").read_text("utf-8", "replace").strip())
    return None


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
class Host:
    """A machine, and the settings of the node that is to run on it. Functions raise OSError."""

    settings: OrchestratorSettings
    docker: DockerGet
    docker_socket: Path = Path("/var/run/docker.sock")
    python: tuple[int, ...] = sys.version_info[:3]
    root: Path = Path("/")
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    memory_bytes: Callable[[], int | None] = host_memory_bytes
    open_driver: Callable[[], DriverView | None] = open_nvml
    which: Callable[[str], str | None] = shutil.which
    now_s: Callable[[], float] = time.time
    clock: Callable[[], ClockFacts | None] = kernel_clock
    try_port: Callable[[Listener], None] = try_port
    user_of_port: Callable[[int], PortUser | None] = user_of_port
    uid: int = field(default_factory=os.getuid)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def folder(self) -> Path:
        """The node's state folder, which may not be there yet."""
        return (self.settings.home or state_home(self.environ)) / "orchestrator" / self.settings.name


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


def _tcp_rows(proc: Path) -> list[list[str]]:
    rows: list[list[str]] = []
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            rows += [line.split() for line in (proc / "net" / name).read_text().splitlines()[1:]]
    return [row for row in rows if len(row) > 9]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
