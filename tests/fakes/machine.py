"""A reader's machine: a network, a home and a clone of their own, in which lines are executed as they are typed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmark.processes import tail
from tests.programs import needs

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240
COPIED = "scripts"
"""The folder of a clone that is no link: a script finds its checkout by where it lies itself."""
LEFT_OUT = {".git", ".venv", "out", COPIED}
INTERRUPTED = (0, -signal.SIGINT, 128 + signal.SIGINT)
"""How a program ends on Ctrl-C."""


@dataclass(frozen=True)
class Service:
    """A line that goes on until Ctrl-C."""

    line: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_it_says(self, text: str) -> None:
        """Returns when its output has the text; fails when it ends before, or is late."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.said():
            assert self.process.poll() is None, f"`{self.line}` ended:\n{tail(self.log)}"
            assert time.monotonic() < deadline, f"`{self.line}` never said {text!r}:\n{tail(self.log)}"
            time.sleep(0.05)

    def said(self) -> str:
        """Its output until now."""
        return self.log.read_text("utf-8", "replace")

    def interrupt(self) -> None:
        """Ctrl-C: the signal goes to all of the terminal's foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)
        code = self.process.wait(PATIENCE_S)
        assert code in INTERRUPTED, f"`{self.line}` ended with {code}:\n{tail(self.log)}"


@dataclass
class Machine:
    """A machine whose network has nothing but loopback; `network` is the file of its namespace.

    `mounts` is the file of another one, where it has system folders of its own.
    """

    folder: Path
    network: str
    environ: dict[str, str]
    mounts: str = ""
    services: list[Service] = field(default_factory=list)

    @property
    def clone(self) -> Path:
        """Where lines are typed."""
        return self.folder / "clone"

    @property
    def home(self) -> Path:
        """The user's home."""
        return self.folder / "home"

    def run(self, line: str, codes: tuple[int, ...] = (0,)) -> str:
        """What a line prints; fails when it ends with another code than these."""
        done = subprocess.run(
            self._words(line), env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=PATIENCE_S, check=False, text=True,
        )  # fmt: skip
        assert done.returncode in codes, f"`{line}` ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, line: str) -> Service:
        """A line in a terminal of its own."""
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        leash = [sys.executable, "-m", "benchmark.leash", str(os.getpid())]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*leash, *self._words(line)], env=self.environ, stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self.services.append(Service(line, process, log))
        return self.services[-1]

    def end(self, service: Service) -> None:
        """Ctrl-C in the terminal of one of them."""
        service.interrupt()
        self.services.remove(service)

    def interrupt(self) -> None:
        """Ctrl-C in every terminal, the last one first; nothing of them may be left."""
        while self.services:
            self.end(self.services[-1])
        assert not self._inside(), "processes are left"

    def clear(self) -> None:
        """Ends what is left in this network after a failure."""
        for pid in self._inside():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for service in self.services:
            service.process.wait(PATIENCE_S)

    def _words(self, line: str) -> list[str]:
        places = [f"--net={self.network}", *([f"--mount={self.mounts}"] if self.mounts else [])]
        return ["nsenter", *places, "bash", "-c", 'cd "$1" && eval "$2"', "bash", str(self.clone), line]

    def _inside(self) -> list[int]:
        """The processes in this network, but for the one that holds it."""
        own = os.readlink(self.network)
        holder = self.network.split("/")[2]
        return [pid for pid in _pids() if str(pid) != holder and _network_of(pid) == own]


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _network_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return ""


@contextlib.contextmanager
def namespaces(mounting: str = "") -> Iterator[Path]:
    """The folder of namespaces: a network with nothing but loopback, and mounts as the script makes them.

    Skips the test where none can be made.
    """
    needs("unshare", "nsenter", "ip", "curl", "make", *(["mount"] if mounting else []))
    script = f"{mounting or ':'} && ip link set lo up && echo up && exec cat"
    with subprocess.Popen(
        ["unshare", "--net", *(["--mount"] if mounting else []), "sh", "-ec", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as holder:  # leaving the block closes its input, which ends it
        assert holder.stdout
        if (said := holder.stdout.readline()) != b"up\n":
            pytest.skip(f"no network of its own: root may make one ({said.decode().strip()})")
        yield Path("/proc", str(holder.pid), "ns")


@contextlib.contextmanager
def machine(folder: Path, hosts: str = "{}", mounting: str = "") -> Iterator[Machine]:
    """A machine in `folder`, with the environment of a new user; `hosts` is what tests.fakes.ssh is told.

    `mounting` is a script that gives it system folders of its own.
    """
    for name in ("clone", "home", "bin"):
        (folder / name).mkdir(parents=True)
    with namespaces(mounting) as own:
        _fill(folder / "clone")
        _put_ssh(folder / "bin" / "ssh")
        (folder / "home" / ".curlrc").write_text('write-out = "\\n%{http_code}"\n', "utf-8")
        made = Machine(folder, f"{own}/net", _environ(folder, hosts), f"{own}/mnt" if mounting else "")
        try:
            yield made
        finally:
            made.clear()


def _fill(clone: Path) -> None:
    """A clone's files are links to this checkout's; what its lines write is its own."""
    for entry in ROOT.iterdir():
        if entry.name not in LEFT_OUT:
            (clone / entry.name).symlink_to(entry)
    shutil.copytree(ROOT / COPIED, clone / COPIED)
    (clone / ".venv").symlink_to(sys.prefix)


def _put_ssh(file: Path) -> None:
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/fakes/ssh.py" "$@"\n', "utf-8")
    file.chmod(0o755)


def _environ(folder: Path, hosts: str) -> dict[str, str]:
    """A new user's, with an environment that is made already (PYTHON) and a net on one core, as scripts/test has it."""
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    made = {"PYTHON": ".venv/bin/python", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    checkout = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return {"PATH": path, "HOME": str(folder / "home"), "LANG": "C.UTF-8", "HOSTS": hosts, **made, **checkout}
