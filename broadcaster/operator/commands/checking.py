"""`config check`: what a broadcaster would do with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from broadcaster.operator.commands.options import settings_of
from reelnet.home import state_home
from reelnet.operating.console import print_json
from reelnet.operating.options import Config, Json, Name, exit_codes

config = typer.Typer(
    help="Looks at configuration files.\n\nExample: broadcaster config check broadcaster.yaml", no_args_is_help=True
)


@config.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="YAML file; default: --config.", metavar="FILE")] = None,
    config: Config = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Check a file and its file of keys, and print every value that counts: file, environment, default.

    Exit codes: 0 a broadcaster can start with it, 2 it cannot; every fault is on a line of its own.

    Example: broadcaster config check broadcaster.yaml
    """
    from broadcaster.keys import Keys

    with exit_codes():
        settings = settings_of(file or config, name)
        keys = Keys.read(settings.keys_file)
        values: dict[str, Any] = settings.model_dump(mode="json")
        values["home"] = values["home"] or str(state_home())
        count = len(keys.known()) if keys.asked else None
        if as_json:
            print_json({"settings": values, "keys": count})
            return
        typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000).rstrip())
        typer.echo("# no key is asked for" if count is None else f"# {count} keys")
        if not settings.orchestrators:
            typer.echo("# no nodes: name them under `orchestrators`")
