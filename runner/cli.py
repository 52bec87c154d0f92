"""The command `runner`: serve one model, or make tiny models to try things with."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from reelnet import settings as configuration
from reelnet import telemetry
from reelnet.errors import ConfigError, StartError
from runner import process
from runner.app import build
from runner.backend import SetupError
from runner.settings import RunnerSettings

FAILED, USAGE, CANNOT_START = 1, 2, 3

cli = typer.Typer(
    help="Runs one image or video model behind a small HTTP API.\n\n"
    "Example: runner serve --backend synthetic --model synthetic/bars --socket ./runner.sock",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="Makes models.\n\nExample: runner models make-tiny ./models", no_args_is_help=True)
cli.add_typer(models, name="models")


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
    backend: Annotated[str | None, typer.Option(help="diffusers or synthetic.")] = None,
    synthetic: Annotated[str | None, typer.Option(help='Options of the synthetic backend: {"unit_s": 0.01}.')] = None,
    socket: Annotated[Path | None, typer.Option(help="Unix socket to listen on.")] = None,
    tcp: Annotated[str | None, typer.Option(help="Loopback address to listen on: 127.0.0.1:PORT.")] = None,
    exit_with_stdin: Annotated[bool, typer.Option(help="End when standard input ends.")] = False,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
) -> None:
    """Serves one model until SIGTERM.

    Exit codes: 0 stopped, 1 failed, 2 usage or configuration, 3 cannot start.
    """
    with _exit_codes():
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


@models.command("make-tiny", epilog="Example: runner models make-tiny ~/.local/share/reelnet/models")
def make_tiny(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write the models into.")],
) -> None:
    """Writes tiny models with random weights, one of each family: reelnet/tiny-random-sd, …-svd, …-esrgan and others.

    They draw nothing sensible; they run the true model code on a CPU in a second or two.
    """
    with _exit_codes():
        console = Console(stderr=True)
        with console.status("making tiny models"):
            made = _module("runner.models.tiny").make_all(folder)
        for path in made:
            console.print(str(path), highlight=False, soft_wrap=True)


@models.command("convert", epilog="Example: runner models convert ./RealESRGAN_x4plus.pth ./models/acme/esrgan")
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="An upscaler's .pth, .pt or .ckpt.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new model.")],
) -> None:
    """Writes an upscaler's pickled checkpoint as safetensors, which runners read.

    No code of the pickle is run: one that names any is refused.
    """
    with _exit_codes():
        try:
            architecture = _module("runner.models.conversion").convert(checkpoint, folder)
        except SetupError as error:
            raise StartError(str(error)) from None
        Console(stderr=True).print(f"{folder}: {architecture}", highlight=False, soft_wrap=True)


def _module(name: str) -> Any:
    """A module that needs torch, which no other command imports."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise StartError(f"{error.name} is not installed; install the extra: reelnet[diffusers]") from None


def _serve(settings: RunnerSettings, follow_stdin: bool) -> None:
    telemetry.configure("runner", settings.log_level)
    app = build(settings)
    if follow_stdin:
        process.exit_with_stdin()
    process.serve(app, settings)
    process.leave_if_hung(app.state.worker)


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


@contextlib.contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        _leave(error, USAGE)
    except StartError as error:
        _leave(error, CANNOT_START)
    except OSError as error:
        _leave(error, FAILED)


def _leave(error: Exception, code: int) -> None:
    typer.echo(f"runner: {error}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
