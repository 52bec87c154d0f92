"""The command `runner`: serve one model, or look after models."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from reelnet import settings as configuration
from reelnet import telemetry
from reelnet.errors import ConfigError
from runner import process
from runner.app import build
from runner.commands import gauge
from runner.commands.estimate import estimate_model
from runner.commands.exit_codes import exit_codes
from runner.commands.models import models
from runner.commands.self_test import self_test
from runner.settings import RunnerSettings

cli = typer.Typer(
    help="Runs one image or video model behind a small HTTP API.\n\n"
    "Example: runner serve --backend synthetic --model synthetic/bars --socket ./runner.sock",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models.command("estimate", epilog="Example: runner models estimate sdxl --offload model")(estimate_model)
cli.add_typer(models, name="models")
cli.command(epilog="Example: runner card --device cuda:0")(gauge.card)
cli.command(epilog="Example: runner flops ./models/acme/sd --pipeline text-to-image")(gauge.flops)
cli.command("self-test", epilog="Example: runner self-test --device cuda:1")(self_test)


def main() -> None:
    """The console entry point."""
    cli()


@cli.command(
    epilog="Example: runner serve --backend synthetic --model synthetic/bars --socket ./runner.sock",
)
def serve(
    model: Annotated[str | None, typer.Option(help="Folder (absolute or ./…), or id under $REELNET_MODELS.")] = None,
    model_id: Annotated[str | None, typer.Option(help="Id to advertise instead.")] = None,
    pipelines: Annotated[str | None, typer.Option(help="Pipelines to serve: a,b. Default: all of the model.")] = None,
    backend: Annotated[str | None, typer.Option(help="diffusers, synthetic or self-test.")] = None,
    synthetic: Annotated[str | None, typer.Option(help='Options of the synthetic backend: {"unit_s": 0.01}.')] = None,
    socket: Annotated[Path | None, typer.Option(help="Unix socket to listen on.")] = None,
    tcp: Annotated[str | None, typer.Option(help="Loopback address to listen on: 127.0.0.1:PORT.")] = None,
    exit_with_stdin: Annotated[bool, typer.Option(help="End when standard input ends.")] = False,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
) -> None:
    """Serves one model until SIGTERM.

    Exit codes: 0 stopped, 1 failed, 2 usage or configuration, 3 cannot start.
    """
    with exit_codes():
        flags = {
            "model": model,
            "model_id": model_id,
            "pipelines": pipelines.split(",") if pipelines else None,
            "backend": backend,
            "synthetic": _json_object(synthetic),
            "socket": socket,
            "tcp": _address(tcp),
        }
        _serve(configuration.load(RunnerSettings, config, flags), exit_with_stdin)


def _serve(settings: RunnerSettings, follow_stdin: bool) -> None:
    telemetry.configure("runner", settings.log_level)
    app = build(settings)
    if follow_stdin:
        process.exit_with_stdin()
    process.serve(app, settings)
    process.leave(app.state.worker)


def _json_object(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        parsed = json.loads(text)
        if isinstance(parsed, dict):
            return parsed
    raise ConfigError('--synthetic: expected a JSON object such as {"unit_s": 0.01}')


def _address(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal():
        raise ConfigError(f"--tcp: expected 127.0.0.1:PORT, found {text!r}")
    return {"host": host.strip("[]"), "port": int(port)}


if __name__ == "__main__":
    main()
