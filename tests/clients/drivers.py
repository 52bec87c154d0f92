"""The published clients, each in a process of its own environment that takes calls as lines of JSON."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import programs

HERE = Path(__file__).resolve().parent
PYTHON = HERE / "python" / ".venv" / "bin" / "python"
NODE_PACKAGE = HERE / "node" / "node_modules" / "@livepeer" / "ai"
END_S = 30
NO_KEY = "none"
"""The clients always send a key."""


@dataclass(frozen=True)
class Answer:
    """What a client made of one call. `statuses` has every HTTP answer that it got, `sent` the JSON of a request."""

    statuses: list[int]
    sent: dict[str, Any] | None
    images: list[dict[str, Any]] | None = None
    error: dict[str, Any] | None = None


class Driver:
    """A client. Operations, parameters and errors have the same names in all languages here."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def call(
        self, url: str, operation: str, *, key: str = NO_KEY, picture: Path | None = None, **params: Any
    ) -> Answer:
        """One call, with the client's own defaults for whatever is not in `params`."""
        assert self._process.stdin
        assert self._process.stdout
        call = {"url": url, "key": key, "operation": operation, "params": params, "picture": picture and str(picture)}
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the driver has ended; what it said is in the test's output"
        return Answer(**json.loads(line))


def missing(client: str) -> str | None:
    """What is to be done before a client can be driven; None when it is there."""
    if client == "javascript" and (reason := programs.missing("node", "npm")):
        return f"{reason}; then run scripts/bootstrap clients"
    there = (PYTHON if client == "python" else NODE_PACKAGE).exists()
    return None if there else f"the {client} client is not installed: run scripts/bootstrap clients"


@contextlib.contextmanager
def running_driver(client: str) -> Iterator[Driver]:
    """A client's process. It ends when its input does."""
    commands = {
        "python": [str(PYTHON), "-I", str(HERE / "python" / "drive.py")],
        "javascript": [shutil.which("node") or "node", str(HERE / "node" / "drive.mjs")],
    }
    with subprocess.Popen(commands[client], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Driver(process)
        finally:
            assert process.stdin
            process.stdin.close()
            try:
                code = process.wait(END_S)
            finally:
                process.kill()
    assert code == 0
