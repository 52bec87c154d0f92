"""The `broadcaster` command."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from reelnet import telemetry
from reelnet.errors import ConfigError, StartError
from reelnet.home import instance_dir
from reelnet.identity import Identity
from reelnet.lifecycle import report, run
from reelnet.settings import load

cli = typer.Typer(
    help="One HTTP API before a pool of nodes: takes jobs, chooses nodes, checks and serves what they deliver.\n\n"
    "Example: broadcaster serve --config broadcaster.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Config = Annotated[Path | None, typer.Option(help="YAML file; see docs/operate.md.", metavar="FILE")]
Name = Annotated[str | None, typer.Option(help="Instance name: one state folder each.", metavar="NAME")]


@cli.command()
def serve(
    config: Config = None,
    name: Name = None,
    http_port: Annotated[int | None, typer.Option(help="HTTP port; 0 takes a free one.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Metrics port; 0 takes a free one.")] = None,
    orchestrator: Annotated[
        list[str] | None, typer.Option(help="A node, host:port#node-id; may be repeated.", metavar="ADDRESS")
    ] = None,
) -> None:
    """Run a broadcaster until Ctrl-C or SIGTERM, then drain it.

    Example: broadcaster serve --orchestrator 127.0.0.1:8935
    """
    from broadcaster.app import serve as serve_broadcaster
    from broadcaster.settings import BroadcasterSettings

    flags: dict[str, Any] = {"name": name, "orchestrators": orchestrator or None}
    flags["http"] = {"port": http_port} if http_port is not None else None
    flags["metrics"] = {"port": metrics_port} if metrics_port is not None else None

    async def main(stopping: asyncio.Event) -> None:
        settings = load(BroadcasterSettings, config, flags)
        telemetry.configure("broadcaster", settings.log_level)
        await serve_broadcaster(settings, stopping)

    raise typer.Exit(run(main))


@cli.command(name="id")
def show_id(config: Config = None, name: Name = None) -> None:
    """Print this broadcaster's id, making its key when there is none.

    Example: broadcaster id
    """
    from broadcaster.settings import BroadcasterSettings

    try:
        settings = load(BroadcasterSettings, config, {"name": name})
        folder = instance_dir("broadcaster", settings.name, settings.home)
        typer.echo(Identity.load_or_create(folder / "identity.key").id)
    except (ConfigError, StartError) as error:
        raise typer.Exit(report(error)) from None


def main() -> None:
    """The console command."""
    sys.exit(cli())


if __name__ == "__main__":
    main()
