"""`drain`, `resume`, `reload`: what a running node is told."""

from __future__ import annotations

import typer

from orchestrator.commands.options import client_of
from orchestrator.status_view import jobs_here
from reelnet.operating import watching
from reelnet.operating.options import Config, Name, Timeout, Wait, exit_codes
from reelnet.operating.watching import print_changes


def drain(config: Config = None, name: Name = None, wait: Wait = True, timeout: Timeout = None) -> None:
    """Have a node take no new job; it goes on with those that it has, and keeps its models loaded.

    Example: orchestrator drain && systemctl stop reelnet-orchestrator
    """
    with exit_codes():
        watching.drain(client_of(config, name), jobs_here, wait=wait, timeout_s=timeout)


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
        print_changes(client_of(config, name).reload())
