"""A look from within a runner's container: small programs that run there as the runner does."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.docker.engines import TestEngine

EXEC_S = 60


def tried(docker: TestEngine, ref: str, program: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in the container, whatever becomes of it."""
    command = docker.command("exec", "--interactive", ref, "python", "-")
    return subprocess.run(command, input=program, capture_output=True, text=True, timeout=EXEC_S)


def seen(docker: TestEngine, ref: str, program: str) -> Any:
    """What the program prints, read as JSON. Raises AssertionError when it fails."""
    run = tried(docker, ref, program)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)
