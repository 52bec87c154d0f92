"""`runner card` and `runner flops`: what a device can do, and what a job asks of it."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from reelnet.errors import ConfigError, StartError
from reelnet.pipelines import explain, pipeline_named
from runner.backend import SetupError
from runner.commands.exit_codes import exit_codes


def card(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Prints a device's name, memory, driver and measured rate of matrix products, as JSON.

    Exit codes: 0 done, 3 no such device, or no model library.
    """
    with exit_codes():
        try:
            found = _module("card").measure(device)
        except SetupError as error:
            raise StartError(str(error)) from None
        typer.echo(json.dumps(asdict(found), indent=1))


def flops(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model's folder.")],
    pipeline: Annotated[str, typer.Option(help="text-to-image or image-to-video.")],
    params: Annotated[str, typer.Option(help='Parameters that differ from the defaults: {"width": 1024}.')] = "{}",
) -> None:
    """Prints a job's operations, counted on the model's nets without weights, as JSON."""
    with exit_codes():
        kind = pipeline_named(pipeline)
        needed = {"prompt": "counted"} if "prompt" in kind.params.model_fields else {}
        try:
            parsed = kind.parse(needed | json.loads(params))
        except ValidationError as error:
            raise ConfigError(f"--params: {explain(error, kind.params)}") from None
        except (ValueError, TypeError):
            raise ConfigError('--params: expected a JSON object such as {"width": 1024}') from None
        counted = _module("flops").count(folder, parsed)
        typer.echo(json.dumps(asdict(counted) | {"total": counted.total}))


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"runner.models.{name}")
    except ModuleNotFoundError as error:
        raise StartError(f"{error.name} is not installed; install the extra: reelnet[diffusers]") from None
