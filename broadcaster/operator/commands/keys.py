"""`keys`: who may call the API. The file is the truth; a running broadcaster reads it anew after each change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.text import Text

from broadcaster.operator.commands.options import client_of, settings_of
from reelnet.errors import ConfigError
from reelnet.operating.console import framed_table, named, print_json, to_terminal
from reelnet.operating.control_client import ControlError
from reelnet.operating.options import Config, Json, Name, exit_codes
from reelnet.operating.watching import print_changes

if TYPE_CHECKING:
    from broadcaster.keys import ApiKey

keys = typer.Typer(help="Who may call the API.\n\nExample: broadcaster keys add alice", no_args_is_help=True)


@keys.command("list")
def list_keys(config: Config = None, name: Name = None, as_json: Json = False) -> None:
    """List the keys of the file by id and name; a key itself is shown once, when it is made.

    Example: broadcaster keys list --config broadcaster.yaml
    """
    from broadcaster.keys import Keys

    with exit_codes():
        path = settings_of(config, name).keys_file
        known = Keys.read(path).known()
        if as_json:
            print_json([{"id": key.id, "name": key.name, "safety": key.safety} for key in known])
        elif path is None:
            to_terminal().print(Text("no key is asked for: `keys_file` is not set", "yellow"))
        else:
            console = to_terminal()
            console.print(_table(known, console.width))


@keys.command()
def add(
    key_name: Annotated[str, typer.Argument(help="Name of who gets it, for logs and metrics.", metavar="KEY_NAME")],
    safety: Annotated[str, typer.Option(help="What its jobs are held to: flag, blur or refuse.")] = "",
    config: Config = None,
    name: Name = None,
) -> None:
    """Make a key, and print it once. A running broadcaster takes it at once.

    Example: broadcaster keys add alice --safety blur --config broadcaster.yaml
    """
    from broadcaster.operator.key_file import add_key

    with exit_codes():
        made = add_key(_file(config, name), key_name, safety)
        typer.echo(made)
        _tell(config, name)


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id or name, as `keys list` shows it.", metavar="KEY")],
    config: Config = None,
    name: Name = None,
) -> None:
    """Take a key out of the file. A running broadcaster refuses it at once; its jobs that run go on.

    Example: broadcaster keys revoke alice --config broadcaster.yaml
    """
    from broadcaster.operator.key_file import revoke_key

    with exit_codes():
        revoke_key(_file(config, name), key)
        _tell(config, name)


def _file(config: Path | None, name: str | None) -> Path:
    path = settings_of(config, name).keys_file
    if path is None:
        raise ConfigError("keys_file: is not set, so that no key is asked for; set it, such as `keys_file: keys`")
    return path


def _tell(config: Path | None, name: str | None) -> None:
    """Has the running broadcaster read the keys; without one the next start does. What it says goes to stderr."""
    try:
        changed = client_of(config, name).reload_keys()
    except ControlError as error:
        typer.echo(f"the next start reads it: {error}", err=True)
    else:
        print_changes(changed, err=True)


def _table(known: list[ApiKey], width: int) -> Group:
    table = framed_table(width)
    for column in ("id", "name", "safety"):
        table.add_column(column, overflow="fold")
    for key in known:
        table.add_row(named(key.id), named(key.name), named(key.safety or "as configured"))
    return Group(table)
