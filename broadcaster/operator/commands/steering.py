"""`drain`, `resume`, `reload`: what a running broadcaster is told."""

from __future__ import annotations

import typer

from broadcaster.operator.commands.options import client_of
from broadcaster.operator.status_view import jobs_here
from reelnet.operating import watching
from reelnet.operating.console import print_json
from reelnet.operating.options import Config, Json, Name, Timeout, Wait, exit_codes
from reelnet.operating.watching import print_changes


def drain(config: Config = None, name: Name = None, wait: Wait = True, timeout: Timeout = None) -> None:
    """Have a broadcaster take no new job; it goes on with those that it has, and serves results.

    Example: broadcaster drain && systemctl stop reelnet-broadcaster
    """
    with exit_codes():
        watching.drain(client_of(config, name), jobs_here, wait=wait, timeout_s=timeout)


def resume(config: Config = None, name: Name = None) -> None:
    """Have a drained broadcaster take jobs again.

    Example: broadcaster resume --name main
    """
    with exit_codes():
        client_of(config, name).resume()
        typer.echo("the broadcaster takes jobs")


def reload(config: Config = None, name: Name = None, as_json: Json = False) -> None:
    """Have a broadcaster read its configuration and its keys again. A faulty file changes nothing.

    Example: broadcaster reload --config broadcaster.yaml
    """
    with exit_codes():
        changed = client_of(config, name).reload()
        if as_json:
            print_json({"changed": changed})
        else:
            print_changes(changed)
