"""The doctor's look at what every component needs: Python, its state folder, its key, its ports, the clock."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic_core import from_json

from reelnet.identity import KEY_BYTES
from reelnet.lifecycle import READY_FILE
from reelnet.operating.control_client import ControlClient, ControlError
from reelnet.operating.doctor import Finding, bad, good, poor
from reelnet.operating.machine import Machine, PortUser
from reelnet.operating.state_files import read_bounded
from reelnet.settings import Listener

GIB = 2**30
OLDEST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 1 * GIB
RELEASED_S = 1_735_689_600
"""2025-01-01: no clock that is right says an earlier time."""
READY_BYTES = 64 * 1024
SKEW_S = 2.0
TICKET_SKEW_S = 10.0
"""A clock that is wrong by more makes nodes refuse tickets that are good, or take old ones."""


def python(machine: Machine) -> Iterable[Finding]:
    """The interpreter's version."""
    version = ".".join(map(str, machine.python))
    if machine.python[:2] < OLDEST_PYTHON:
        yield bad(f"Python {version}", "install Python 3.11 or newer, and Reelnet with it")
    else:
        yield good(f"Python {version}")


def state(machine: Machine) -> Iterable[Finding]:
    """The state folder: it can be written, by this user alone, and its disk has room."""
    folder = machine.folder
    there = _nearest(folder)
    if not os.access(there, os.W_OK | os.X_OK):
        yield bad(
            f"{there} cannot be written by user {machine.uid}",
            f"run as the {machine.instance.noun}'s user, make {folder} for this one, or set `home`",
        )
        return
    if there == folder and (mode := stat.S_IMODE(folder.stat().st_mode)) & 0o077:
        yield poor(f"{folder}: others can look into it (mode {mode:04o})", f"chmod 700 {folder}")
    free, (wanted, key_of_room) = machine.free_bytes(there), machine.room
    room = f"{free / GIB:.1f} GiB free for {folder}"
    if free < LEAST_FREE_BYTES:
        yield bad(room, "make room, or set `home` to a folder on a larger disk")
    elif free < wanted + LEAST_FREE_BYTES:
        yield poor(
            f"{room}; {key_of_room} may take {wanted / GIB:.1f} GiB of it", f"make room, or set {key_of_room} lower"
        )
    else:
        yield good(room)


def key(machine: Machine) -> Iterable[Finding]:
    """The identity key: for its owner alone, and whole."""
    path = machine.folder / "identity.key"
    try:
        facts = path.stat()
    except FileNotFoundError:
        yield good(f"{path}: not there yet; `{machine.instance.component} init` or the first start makes it")
        return
    except PermissionError:
        yield bad(f"{path}: cannot be read by user {machine.uid}", "run as the user that owns the state folder")
        return
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o077:
        yield bad(
            f"{path}: others can read it (mode {mode:04o})", f"chmod 600 {path}; if others had it, make a new one"
        )
    elif facts.st_uid != machine.uid and machine.uid != 0:
        yield bad(f"{path}: belongs to user {facts.st_uid}", f"run as that user, or: chown {machine.uid} {path}")
    elif facts.st_size != KEY_BYTES:
        yield bad(f"{path}: {facts.st_size} bytes instead of {KEY_BYTES}", "restore it from your copy, or move it away")
    else:
        yield good(f"{path} is private; keep a copy of it: it is the {machine.instance.noun}'s id")


def ports(machine: Machine) -> Iterable[Finding]:
    """Whether the node could listen."""
    for what, listener in machine.listeners.items():
        if listener.port:
            yield _port(machine, what, listener)
        else:
            yield good(f"{what}: any free port of {listener.host}")


def clock(machine: Machine) -> Iterable[Finding]:
    """Whether the clock is right: tickets carry times, and those of another time are refused."""
    now_s = machine.now_s()
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if now_s < RELEASED_S:
        yield bad(f"the clock says {day}", "set it, and have NTP keep it right: timedatectl set-ntp true")
        return
    skew_s = abs(_file_time(_nearest(machine.folder)) - now_s)
    if skew_s > SKEW_S:
        yield poor(
            f"the file system's clock differs by {skew_s:.0f} s", "keep both machines right by NTP, or use a local disk"
        )
    facts = machine.clock()
    if facts is None:
        yield poor(f"{day}; the kernel does not say whether it is kept right", "see that NTP runs: timedatectl")
    elif not facts.synchronised:
        yield poor(f"{day}; nothing keeps it right", "have NTP keep it right: timedatectl set-ntp true")
    elif facts.error_s > TICKET_SKEW_S:
        yield poor(f"{day}, right to {facts.error_s:.0f} s only", "look at NTP: timedatectl timesync-status")
    else:
        yield good(f"{day}, kept right by NTP")


def _port(machine: Machine, what: str, listener: Listener) -> Finding:
    where = f"{listener.host}:{listener.port}"
    try:
        machine.try_port(listener)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return bad(
                f"{what} {where}: {error.strerror}", f"set `{what}.host` and `{what}.port` to what this user may use"
            )
        user = machine.user_of_port(listener.port)
        if _is_this_one(machine, user):
            return good(f"{what} {where}: this {machine.instance.noun} runs and listens there")
        who = f"process {user.pid} ({user.program})" if user else "a process of another user"
        return bad(f"{what} {where}: {who} listens there", f"stop it, or set `{what}.port`")
    return good(f"{what} {where} is free")


def _is_this_one(machine: Machine, user: PortUser | None) -> bool:
    """Whether the instance of these settings is what runs there."""
    try:
        facts = from_json(read_bounded(machine.folder / READY_FILE, READY_BYTES))
        if user and user.pid != facts["pid"]:
            return False
        ControlClient(replace(machine.instance, home=machine.folder.parent.parent), timeout_s=2).ask("GET", "/status")
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
