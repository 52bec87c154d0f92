"""What a runner is told: its command line and its environment, whichever engine starts it."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.engine import RunnerSpec

SOCKET_NAME = "runner.sock"
COMPILE_CACHE = "REELNET_RUNNER_COMPILE_CACHE"
"""Where a runner keeps compiled code: the node's to say, never a flag's."""


def serve_words(spec: RunnerSpec, model: str, socket: Path) -> list[str]:
    """The words after `runner`: `model` and `socket` are what the runner sees, which may be inside a container."""
    words = ["serve", "--model", model, "--model-id", spec.model_id, "--backend", spec.backend]
    words += ["--socket", str(socket)]
    if spec.pipelines:
        words += ["--pipelines", ",".join(spec.pipelines)]
    if spec.backend == "synthetic":
        words += ["--synthetic", json.dumps(dict(spec.options))]
    return words


def flag_environment(spec: RunnerSpec) -> dict[str, str]:
    """The runner's settings that the operator named, as the runner reads them."""
    return {f"REELNET_RUNNER_{name.upper()}": value for name, value in spec.flags.items()}
