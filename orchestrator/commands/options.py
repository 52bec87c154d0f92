"""What several commands have in common: options, the way to a running node, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from orchestrator.control_client import ControlClient
from orchestrator.settings import OrchestratorSettings
from reelnet.errors import ConfigError, StartError
from reelnet.lifecycle import report
from reelnet.settings import load

CLIENT_GRACE_S = 5
"""The node gives up before its operator does, and says why."""
Config = Annotated[Path | None, typer.Option(help="YAML file; see docs/operate.md.", metavar="FILE")]
Name = Annotated[str | None, typer.Option(help="Instance name: one state folder each.", metavar="NAME")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def settings_of(config: Path | None, name: str | None) -> OrchestratorSettings:
    """The node's settings, as `serve` reads them. Raises ConfigError."""
    return load(OrchestratorSettings, config, {"name": name})


def client_of(config: Path | None, name: str | None) -> ControlClient:
    """The way to the running node of a file and name. Raises ConfigError."""
    settings = settings_of(config, name)
    return ControlClient(settings.name, settings.home, settings.limits.control_s + CLIENT_GRACE_S)


@contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the command with 2 or 3 and one message, when the operator has to do something."""
    try:
        yield
    except (ConfigError, StartError) as error:
        raise typer.Exit(report(error)) from None


def to_terminal() -> Console:
    """Standard output, for people."""
    return Console(highlight=False)


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """Standard output, for programs."""
    typer.echo(json.dumps(document, indent=indent, ensure_ascii=False))
