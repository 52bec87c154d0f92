"""`drain`, `resume`, `reload`: what a running node is told."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status

from orchestrator.commands.options import Config, Name, client_of, exit_codes
from orchestrator.control_client import ControlClient, ControlError
from orchestrator.status import NodeStatus
from orchestrator.status_view import jobs_here
from reelnet.errors import printable
from reelnet.lifecycle import EXIT_FAILED, EXIT_FORCED

POLL_S = 0.5
LINE_CHARS = 1000


def drain(
    config: Config = None,
    name: Name = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until the jobs that are here have ended.")
    ] = True,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait at most; 1 is the exit code then.", min=0)
    ] = None,
) -> None:
    """Have a node take no new job; it goes on with those that it has, and keeps its models loaded.

    Example: orchestrator drain && systemctl stop reelnet-orchestrator
    """
    with exit_codes():
        client = client_of(config, name)
        now = client.drain()
        if not wait:
            typer.echo(f"draining: {jobs_here(now)}")
            return
        try:
            _wait_until_idle(client, now, timeout)
        except KeyboardInterrupt:
            typer.echo("the node goes on draining; `orchestrator resume` has it take jobs again", err=True)
            raise typer.Exit(EXIT_FORCED) from None
        typer.echo("drained: no job is here; stop the node, or have it take jobs again with `orchestrator resume`")


def resume(config: Config = None, name: Name = None) -> None:
    """Have a drained node take jobs again.

    Example: orchestrator resume --name gpu-box
    """
    with exit_codes():
        client_of(config, name).resume()
        typer.echo("the node takes jobs")


def reload(config: Config = None, name: Name = None) -> None:
    """Have a node read its configuration file again. A faulty file changes nothing.

    Example: orchestrator reload --config orchestrator.yaml
    """
    with exit_codes():
        changed = client_of(config, name).reload()
        for line in changed or ("nothing changed",):
            typer.echo(printable(line, LINE_CHARS))


def _wait_until_idle(client: ControlClient, now: NodeStatus, timeout_s: float | None) -> None:
    """Shows how many jobs are left; on a terminal in place, else a line at each change."""
    ends_at = None if timeout_s is None else time.monotonic() + timeout_s
    console = Console(stderr=True, highlight=False)
    said = ""
    with Status("", console=console) as spinner:
        while not now.idle:
            if ends_at is not None and time.monotonic() >= ends_at:
                typer.echo(f"not drained within {timeout_s:g} s: {jobs_here(now)}; the node goes on draining", err=True)
                raise typer.Exit(EXIT_FAILED)
            if said != (said := f"draining: {jobs_here(now)}"):
                spinner.update(said)
                if not console.is_terminal:
                    typer.echo(said, err=True)
            time.sleep(POLL_S)
            now = client.status()
            if not now.draining:
                raise ControlError("the node was told to take jobs again by somebody else")
