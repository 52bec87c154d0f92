"""The `orchestrator` command."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated, Any

import typer

from orchestrator.commands import checking, setup, steering, watching
from orchestrator.commands.options import settings_of
from reelnet import telemetry
from reelnet.home import instance_dir
from reelnet.identity import Identity
from reelnet.lifecycle import run
from reelnet.operating.hangup import hangups
from reelnet.operating.options import Config, Name, exit_codes
from reelnet.settings import load

cli = typer.Typer(
    help="Sells a machine's GPU time: takes jobs over gRPC and runs them on its runners.\n\n"
    "Example: orchestrator init && orchestrator doctor && orchestrator serve",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.command()
def serve(
    config: Config = None,
    name: Name = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port; 0 takes a free one.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Metrics port; 0 takes a free one.")] = None,
) -> None:
    """Run a node until Ctrl-C or SIGTERM, then drain it. SIGHUP reads the configuration again.

    Example: orchestrator serve --config orchestrator.yaml --grpc-port 8935
    """
    from orchestrator.app import serve as serve_node
    from orchestrator.settings import OrchestratorSettings

    flags: dict[str, Any] = {"name": name}
    flags["grpc"] = {"port": grpc_port} if grpc_port is not None else None
    flags["metrics"] = {"port": metrics_port} if metrics_port is not None else None

    def read() -> OrchestratorSettings:
        return load(OrchestratorSettings, config, flags)

    async def main(stopping: asyncio.Event) -> None:
        settings = read()
        telemetry.configure("orchestrator", settings.log_level)
        async with hangups() as taken:
            await serve_node(
                settings, stopping, reread=read, started=lambda running: taken.follow(running.control.reload)
            )

    raise typer.Exit(run(main))


@cli.command(name="id")
def show_id(config: Config = None, name: Name = None) -> None:
    """Print this node's id, making its key when there is none.

    Example: orchestrator id --name gpu-box
    """
    with exit_codes():
        settings = settings_of(config, name)
        folder = instance_dir("orchestrator", settings.name, settings.home)
        typer.echo(Identity.load_or_create(folder / "identity.key").id)


for command in (
    setup.init,
    setup.doctor,
    watching.status,
    watching.models,
    watching.logs,
    steering.drain,
    steering.resume,
    steering.reload,
):
    cli.command()(command)
cli.add_typer(checking.config, name="config")


def main() -> None:
    """The console command."""
    sys.exit(cli())


if __name__ == "__main__":
    main()
