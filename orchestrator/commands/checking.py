"""`config check`: what a node would do with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.text import Text

from orchestrator.commands.options import settings_of
from orchestrator.models_on_disk import folder_of, judge
from orchestrator.settings import ModelSettings, OrchestratorSettings, SyntheticOptions
from reelnet.errors import ConfigError
from reelnet.home import models_home, state_home
from reelnet.operating.console import print_json, to_terminal
from reelnet.operating.options import Config, Json, Name, exit_codes

config = typer.Typer(
    help="Looks at configuration files.\n\nExample: orchestrator config check orchestrator.yaml", no_args_is_help=True
)


@config.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="YAML file; default: --config.", metavar="FILE")] = None,
    config: Config = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Check a file, find the models that it names, and print every value that counts: file, environment, default.

    Exit codes: 0 a node can start with it, 2 it cannot; every fault is on a line of its own.

    Example: orchestrator config check orchestrator.yaml
    """
    with exit_codes():
        settings = settings_of(file or config, name)
        values, folders = effective(settings), _model_folders(settings)
        if as_json:
            print_json({"settings": values, "models": folders})
        else:
            typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120).rstrip())
            for model, found in folders.items():
                to_terminal().print(
                    Text(f"# {model}: {found['folder'] or 'synthetic'}: {found['state']}"), soft_wrap=True
                )
        if faults := [f"models: {model}: {found['fault']}" for model, found in folders.items() if found["fault"]]:
            raise ConfigError("\n".join(f"{file or config or 'configuration'}: {fault}" for fault in faults))


def effective(settings: OrchestratorSettings) -> dict[str, Any]:
    """Every value, in the form of the file; folders that nobody named are where they come to lie."""
    values = settings.model_dump(mode="json")
    for model, dumped in zip(settings.models, values["models"], strict=True):
        if isinstance(model.backend, SyntheticOptions):
            dumped["backend"] = {"synthetic": dumped["backend"]}
    values["home"] = values["home"] or str(state_home())
    values["models_home"] = values["models_home"] or str(models_home())
    return values


def _model_folders(settings: OrchestratorSettings) -> dict[str, dict[str, str]]:
    return {model.model_id: _found(model, settings) for model in settings.models}


def _found(model: ModelSettings, settings: OrchestratorSettings) -> dict[str, str]:
    """Where a model is, what it is, and the fault that keeps a node from serving it."""
    folder = folder_of(model, settings)
    if folder is None:
        return {"folder": "", "state": "no weights needed", "fault": ""}
    judged = judge(folder)
    if judged.fault or judged.found is None:
        return {"folder": str(folder), "state": judged.fault, "fault": f"{judged.fault}; {judged.mend}"}
    found = judged.found
    state = f"{found.class_name}, {found.weight_bytes / 2**30:.2f} GiB of weights"
    return {"folder": str(folder), "state": state, "fault": ""}
