"""The doctor's look at the machine itself: Python, disk, memory, ports, clock, and the node's own files."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic_core import from_json

from orchestrator.control_client import ControlClient, ControlError
from orchestrator.doctor import Finding, bad, good, poor
from orchestrator.host import Host, PortUser
from orchestrator.settings import SyntheticOptions
from orchestrator.state_files import read_bounded
from reelnet.identity import KEY_BYTES
from reelnet.lifecycle import READY_FILE
from reelnet.settings import Listener

GIB = 2**30
OLDEST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 1 * GIB
LEAST_MEMORY_BYTES = 2 * GIB
RELEASED_S = 1_735_689_600
"""2025-01-01: no clock that is right says an earlier time."""
READY_BYTES = 64 * 1024
SKEW_S = 2.0
TICKET_SKEW_S = 10.0
"""A clock that is wrong by more makes a node refuse tickets that are good, or take old ones."""


def python(host: Host) -> Iterable[Finding]:
    """The interpreter's version."""
    version = ".".join(map(str, host.python))
    if host.python[:2] < OLDEST_PYTHON:
        yield bad(f"Python {version}", "install Python 3.11 or newer, and Reelnet with it")
    else:
        yield good(f"Python {version}")


def state(host: Host) -> Iterable[Finding]:
    """The state folder: it can be written, by this user alone, and its disk has room."""
    folder = host.folder
    there = _nearest(folder)
    if not os.access(there, os.W_OK | os.X_OK):
        yield bad(
            f"{there} cannot be written by user {host.uid}",
            f"run as the node's user, make {folder} for this one, or set `home`",
        )
        return
    if there == folder and (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
        yield poor(f"{folder}: others can look into it (mode {mode:04o})", f"chmod 700 {folder}")
    free, spool = host.free_bytes(there), host.settings.limits.spool_bytes
    room = f"{free / GIB:.1f} GiB free for {folder}"
    if free < LEAST_FREE_BYTES:
        yield bad(room, "make room, or set `home` to a folder on a larger disk")
    elif free < spool + LEAST_FREE_BYTES:
        yield poor(
            f"{room}; the spool may take {spool / GIB:.1f} GiB of it", "make room, or set limits.spool_bytes lower"
        )
    else:
        yield good(room)


def key(host: Host) -> Iterable[Finding]:
    """The identity key: for its owner alone, and whole."""
    path = host.folder / "identity.key"
    try:
        facts = path.stat()
    except FileNotFoundError:
        yield good(f"{path}: not there yet; `orchestrator init` or the first start makes it")
        return
    except PermissionError:
        yield bad(f"{path}: cannot be read by user {host.uid}", "run as the user that owns the state folder")
        return
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o077:
        yield bad(
            f"{path}: others can read it (mode {mode:04o})", f"chmod 600 {path}; if others had it, make a new one"
        )
    elif facts.st_uid != host.uid and host.uid != 0:
        yield bad(f"{path}: belongs to user {facts.st_uid}", f"run as that user, or: chown {host.uid} {path}")
    elif facts.st_size != KEY_BYTES:
        yield bad(f"{path}: {facts.st_size} bytes instead of {KEY_BYTES}", "restore it from your copy, or move it away")
    else:
        yield good(f"{path} is private; keep a copy of it: it is the node's id")


def memory(host: Host) -> Iterable[Finding]:
    """The host's memory, or the control group's."""
    size = host.memory_bytes()
    if size is None:
        yield poor("the host does not say how much memory it has", "see that /proc is mounted")
    elif size < LEAST_MEMORY_BYTES:
        real = [m for m in host.settings.models if not isinstance(m.backend, SyntheticOptions)]
        text = f"{size / GIB:.1f} GiB of memory"
        yield (
            bad(text, "a model needs more: give the host or the container more memory")
            if real
            else poor(text, "enough for synthetic models alone")
        )
    else:
        yield good(f"{size / GIB:.1f} GiB of memory")


def ports(host: Host) -> Iterable[Finding]:
    """Whether the node could listen."""
    for what, listener in (("grpc", host.settings.grpc), ("metrics", host.settings.metrics)):
        if listener.port:
            yield _port(host, what, listener)
        else:
            yield good(f"{what}: any free port of {listener.host}")


def clock(host: Host) -> Iterable[Finding]:
    """Whether the clock is right: tickets carry times, and those of another time are refused."""
    now_s = host.now_s()
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if now_s < RELEASED_S:
        yield bad(f"the clock says {day}", "set it, and have NTP keep it right: timedatectl set-ntp true")
        return
    skew_s = abs(_file_time(_nearest(host.folder)) - now_s)
    if skew_s > SKEW_S:
        yield poor(
            f"the file system's clock differs by {skew_s:.0f} s", "keep both machines right by NTP, or use a local disk"
        )
    facts = host.clock()
    if facts is None:
        yield poor(f"{day}; the kernel does not say whether it is kept right", "see that NTP runs: timedatectl")
    elif not facts.synchronised:
        yield poor(f"{day}; nothing keeps it right", "have NTP keep it right: timedatectl set-ntp true")
    elif facts.error_s > TICKET_SKEW_S:
        yield poor(f"{day}, right to {facts.error_s:.0f} s only", "look at NTP: timedatectl timesync-status")
    else:
        yield good(f"{day}, kept right by NTP")


def _port(host: Host, what: str, listener: Listener) -> Finding:
    where = f"{listener.host}:{listener.port}"
    try:
        host.try_port(listener)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return bad(
                f"{what} {where}: {error.strerror}", f"set `{what}.host` and `{what}.port` to what this user may use"
            )
        user = host.user_of_port(listener.port)
        if _is_this_node(host, user):
            return good(f"{what} {where}: this node runs and listens there")
        who = f"process {user.pid} ({user.program})" if user else "a process of another user"
        return bad(f"{what} {where}: {who} listens there", f"stop it, or set `{what}.port`")
    return good(f"{what} {where} is free")


def _is_this_node(host: Host, user: PortUser | None) -> bool:
    """Whether the node of these settings is what runs there."""
    try:
        facts = from_json(read_bounded(host.folder / READY_FILE, READY_BYTES))
        if user and user.pid != facts["pid"]:
            return False
        ControlClient(host.settings.name, host.folder.parent.parent, timeout_s=2).status()
    except (ControlError, OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _file_time(folder: Path) -> float:
    """What the file system takes for now, seconds."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        return os.fstat(file.fileno()).st_mtime
