"""What a process tells the service manager that started it; nothing where there is none. See sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

WATCHDOG_SHARE = 1 / 3
"""How much of the watchdog's patience passes between two signs of life."""


def notify(message: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Sends one message to `$NOTIFY_SOCKET`; whether somebody was there to get it."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # a name in the kernel instead of a path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock, suppress(OSError):
        sock.sendto(message.encode(), address)
        return True
    return False


def ready() -> None:
    """The process serves: after its start, or again after a reload."""
    notify("READY=1")


def reloading() -> None:
    """The process reads its configuration again; `ready` ends it."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The process has begun to end."""
    notify("STOPPING=1")


def watchdog() -> None:
    """The process lives."""
    notify("WATCHDOG=1")


def watchdog_interval_s(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """Seconds between two signs of life that the manager wants of this process; None when it wants none."""
    if environ.get("WATCHDOG_PID", "") not in ("", str(pid or os.getpid())):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdecimal()) or int(text) == 0:
        return None
    return int(text) / 1_000_000 * WATCHDOG_SHARE
