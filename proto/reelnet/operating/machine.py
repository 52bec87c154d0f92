"""The machine as `doctor` and `init` see it: every fact by a function that a test can replace."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from reelnet.home import state_home
from reelnet.host_memory import host_memory_bytes
from reelnet.operating.control_client import Instance
from reelnet.settings import Listener

CLOCK_UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2)."""
LISTENING = "0A"
"""A listening socket's state in /proc/net/tcp."""


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


@dataclass(frozen=True, kw_only=True)
class Machine(ABC):
    """A machine, and one instance of a component that is to run on it. Functions raise OSError."""

    python: tuple[int, ...] = sys.version_info[:3]
    root: Path = Path("/")
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    memory_bytes: Callable[[], int | None] = host_memory_bytes
    which: Callable[[str], str | None] = shutil.which
    now_s: Callable[[], float] = time.time
    clock: Callable[[], ClockFacts | None] = kernel_clock
    try_port: Callable[[Listener], None] = try_port
    user_of_port: Callable[[int], PortUser | None] = user_of_port
    uid: int = field(default_factory=os.getuid)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    @abstractmethod
    def instance(self) -> Instance:
        """The instance that is to run here."""

    @property
    @abstractmethod
    def listeners(self) -> Mapping[str, Listener]:
        """Where it is to listen, by the key in its configuration."""

    @property
    @abstractmethod
    def room(self) -> tuple[int, str]:
        """Bytes that it may fill on the disk of its state folder, and the key that bounds them."""

    @property
    def folder(self) -> Path:
        """Its state folder, which may not be there yet."""
        place = self.instance
        return (place.home or state_home(self.environ)) / place.component / place.name


def _tcp_rows(proc: Path) -> list[list[str]]:
    rows: list[list[str]] = []
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            rows += [line.split() for line in (proc / "net" / name).read_text().splitlines()[1:]]
    return [row for row in rows if len(row) > 9]


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
