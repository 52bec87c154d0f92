"""`init` and `doctor`: a machine becomes a node."""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import settings_of
from orchestrator.control_client import COMPONENT, NOUN
from orchestrator.devices import Device, inventory
from orchestrator.draft import Draft, draft_text
from orchestrator.gpus import DriverError
from orchestrator.host import Host, this_host
from orchestrator.models_on_disk import find_models
from orchestrator.settings import OrchestratorSettings
from reelnet import telemetry
from reelnet.errors import ConfigError
from reelnet.home import instance_dir, models_home
from reelnet.identity import Identity
from reelnet.operating.control_client import Instance
from reelnet.operating.doctor import Line, config_faults, examine, show_findings
from reelnet.operating.drafts import write_draft
from reelnet.operating.options import Config, Json, Limit, Name, exit_codes

DEFAULT_FILE = Path("orchestrator.yaml")


def init(
    file: Annotated[Path, typer.Argument(help="YAML file to write.", metavar="FILE")] = DEFAULT_FILE,
    name: Annotated[str, typer.Option(help="Instance name: one state folder each.", metavar="NAME")] = "default",
    home: Annotated[Path | None, typer.Option(help="State folder; default: $REELNET_HOME.", metavar="DIR")] = None,
    models_home: Annotated[
        Path | None,
        typer.Option("--models-home", help="Folder of the models; default: $REELNET_MODELS.", metavar="DIR"),
    ] = None,
    synthetic: Annotated[bool, typer.Option(help="Serve colour bars instead of a model, to try it.")] = False,
    force: Annotated[bool, typer.Option(help="Replace the file if it is there.")] = False,
) -> None:
    """Write a commented configuration for this machine, and make the node's key.

    Example: orchestrator init orchestrator.yaml --synthetic
    """
    telemetry.configure("orchestrator", "warning")
    with exit_codes():
        draft = _draft(file, OrchestratorSettings(name=name, home=home, models_home=models_home), synthetic)
        settings = write_draft(file, draft_text(draft), OrchestratorSettings, force=force)
        identity = Identity.load_or_create(instance_dir("orchestrator", settings.name, settings.home) / "identity.key")
        typer.echo(f"wrote {file}: {len(settings.models)} models, devices {', '.join(d.name for d in draft.devices)}")
        typer.echo(f"node id: {identity.id}")
        typer.echo(f"next: {draft.command('doctor')}\nthen: {draft.command('serve')}")


def doctor(
    config: Config = None,
    name: Name = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Look at this machine, and say how to mend what keeps a node from working.

    Exit codes: 0 nothing does, 1 something does.

    Example: orchestrator doctor --config orchestrator.yaml
    """
    from orchestrator.doctor_checks_models import CHECKS

    telemetry.configure("orchestrator", "warning")
    settings, faults = _settings_or_fault(config, name)
    with exit_codes():
        lines = chain(faults, examine(this_host(settings), CHECKS, limit))
        show_findings("node", settings.name, lines, as_json=as_json)


def _settings_or_fault(config: Path | None, name: str | None) -> tuple[OrchestratorSettings, list[Line]]:
    """The settings; those of no file at all, and what is wrong, when the file cannot be taken."""
    try:
        return settings_of(config, name), []
    except ConfigError as error:
        check = Instance(COMPONENT, NOUN, name or "default", config=config).command("config check")
        faults = config_faults(error, f"mend it; `{check}` says what counts")
        return OrchestratorSettings(), faults


def _draft(file: Path, settings: OrchestratorSettings, synthetic: bool) -> Draft:
    return Draft(
        file=file,
        name=settings.name,
        devices=_found_devices(this_host(settings)),
        models=() if synthetic else find_models(settings.models_home),
        models_home=(settings.models_home or models_home()).absolute(),
        synthetic=synthetic,
        home=settings.home and settings.home.absolute(),
    )


def _found_devices(host: Host) -> tuple[Device, ...]:
    """The GPUs that answer; a CPU when there is none or the driver does not work, which `doctor` explains."""
    session = None
    with suppress(DriverError):
        session = host.open_driver()
    try:
        return inventory(("auto",), session.gpus if session else (), host.memory_bytes())
    except ConfigError:
        return inventory(("cpu",), ())
    finally:
        if session:
            session.close()
