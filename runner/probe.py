"""What a container's health check runs: exit code 0 when the runner's model can take jobs.

Python's own library alone, as it starts anew every few seconds.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from http.client import HTTPConnection, HTTPException

SOCKET = os.environ.get("REELNET_RUNNER_SOCKET", "/run/reelnet/runner.sock")
TIMEOUT_S = 4.0
"""Less than the health check's own limit, so that the reason is told."""
HEALTHY = ("READY", "BUSY")
HEADERS = {"User-Agent": "reelnet-probe"}
"""By which `runner.process` knows that nobody needs the runner for this request."""


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("runner", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def state(path: str) -> tuple[str, str]:
    """The state and its reason of the runner that listens on `path`. Raises OSError, HTTPException, ValueError."""
    connection = UnixConnection(path)
    try:
        connection.request("GET", "/health", headers=HEADERS)
        health = json.load(connection.getresponse())
        return str(health["state"]), str(health.get("reason") or "")
    finally:
        connection.close()


def main(path: str = SOCKET) -> int:
    """Prints the state; the exit code."""
    try:
        found, reason = state(path)
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        sys.stdout.write(f"{path}: no answer: {error}\n")
        return 1
    sys.stdout.write(f"{found} {reason}".rstrip() + "\n")
    return int(found not in HEALTHY)


if __name__ == "__main__":
    sys.exit(main())
