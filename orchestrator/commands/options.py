"""What the node's commands have in common: its settings, and the way to it while it runs."""

from __future__ import annotations

from pathlib import Path

from orchestrator.control_client import NodeClient
from orchestrator.settings import OrchestratorSettings
from reelnet.operating.options import CLIENT_GRACE_S
from reelnet.settings import load


def settings_of(config: Path | None, name: str | None) -> OrchestratorSettings:
    """The node's settings, as `serve` reads them. Raises ConfigError."""
    return load(OrchestratorSettings, config, {"name": name})


def client_of(config: Path | None, name: str | None) -> NodeClient:
    """The way to the running node of a file and name. Raises ConfigError."""
    settings = settings_of(config, name)
    return NodeClient(settings.name, settings.home, settings.limits.control_s + CLIENT_GRACE_S, config=config)
