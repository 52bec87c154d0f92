"""The `broadcaster` command."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broadcaster.operator.commands import checking, setup, steering, watching
from broadcaster.operator.commands.keys import keys
from broadcaster.operator.commands.options import settings_of
from reelnet import telemetry
from reelnet.home import instance_dir
from reelnet.identity import Identity
from reelnet.lifecycle import run
from reelnet.operating.hangup import hangups
from reelnet.operating.options import Config, Name, exit_codes
from reelnet.settings import load

if TYPE_CHECKING:
    from broadcaster.settings import BroadcasterSettings

cli = typer.Typer(
    help="One HTTP API before a pool of nodes: takes jobs, chooses nodes, checks and serves what they deliver.\n\n"
    "Example: broadcaster init && broadcaster doctor && broadcaster serve --config broadcaster.yaml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    """Run a broadcaster until Ctrl-C or SIGTERM, then drain it. SIGHUP reads the configuration again.

    Example: broadcaster serve --orchestrator 127.0.0.1:8935
    """
    from broadcaster.app import Operated
    from broadcaster.app import serve as serve_broadcaster
    from broadcaster.settings import BroadcasterSettings

    flags: dict[str, Any] = {"name": name, "orchestrators": orchestrator or None}
    flags["http"] = {"port": http_port} if http_port is not None else None
    flags["metrics"] = {"port": metrics_port} if metrics_port is not None else None

    def read() -> BroadcasterSettings:
        return load(BroadcasterSettings, config, flags)

    async def main(stopping: asyncio.Event) -> None:
        settings = read()
        kept = telemetry.KeptLines(settings.limits.kept_log_lines)
        telemetry.configure("broadcaster", settings.log_level, kept=kept)
        async with hangups() as taken:
            await serve_broadcaster(
                settings,
                stopping,
                operated=Operated(read, kept),
                started=lambda running: taken.follow(running.control.reload),
            )

    raise typer.Exit(run(main))


@cli.command(name="id")
def show_id(config: Config = None, name: Name = None) -> None:
    """Print this broadcaster's id, making its key when there is none.

    Example: broadcaster id
    """
    with exit_codes():
        settings = settings_of(config, name)
        folder = instance_dir("broadcaster", settings.name, settings.home)
        typer.echo(Identity.load_or_create(folder / "identity.key").id)


for command in (
    setup.init,
    setup.doctor,
    watching.status,
    watching.nodes,
    watching.logs,
    steering.drain,
    steering.resume,
    steering.reload,
):
    cli.command()(command)
cli.add_typer(checking.config, name="config")
cli.add_typer(keys, name="keys")


def main() -> None:
    """The console command."""
    sys.exit(cli())


if __name__ == "__main__":
    main()
