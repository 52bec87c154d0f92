"""`init` and `doctor`: a machine becomes a broadcaster."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broadcaster.operator.commands.options import settings_of
from broadcaster.operator.control_client import COMPONENT, NOUN
from reelnet import telemetry
from reelnet.errors import ConfigError
from reelnet.home import instance_dir
from reelnet.identity import Identity
from reelnet.operating.control_client import Instance
from reelnet.operating.doctor import Line, config_faults, examine, show_findings
from reelnet.operating.options import Config, Json, Limit, Name, exit_codes

if TYPE_CHECKING:
    from broadcaster.settings import BroadcasterSettings

DEFAULT_FILE = Path("broadcaster.yaml")
KEYS_FILE = "keys"


def init(
    file: Annotated[Path, typer.Argument(help="YAML file to write.", metavar="FILE")] = DEFAULT_FILE,
    name: Annotated[str, typer.Option(help="Instance name: one state folder each.", metavar="NAME")] = "default",
    home: Annotated[Path | None, typer.Option(help="State folder; default: $REELNET_HOME.", metavar="DIR")] = None,
    orchestrator: Annotated[
        list[str] | None, typer.Option(help="A node, host:port#node-id; may be repeated.", metavar="ADDRESS")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Ask apps for a key, and make the first one, with this name.", metavar="KEY_NAME"),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace the file if it is there.")] = False,
) -> None:
    """Write a commented configuration, and make the broadcaster's own key.

    Example: broadcaster init --orchestrator 127.0.0.1:8935 --key alice
    """
    from broadcaster.operator.draft import Draft, draft_text
    from broadcaster.operator.key_file import add_key
    from broadcaster.settings import BroadcasterSettings
    from reelnet.operating.drafts import write_draft

    telemetry.configure("broadcaster", "warning")
    with exit_codes():
        keys_file = file.resolve().parent / KEYS_FILE if key else None
        draft = Draft(name, tuple(orchestrator or ()), home, keys_file)
        settings = write_draft(file, draft_text(draft), BroadcasterSettings, force=force)
        identity = Identity.load_or_create(instance_dir("broadcaster", settings.name, settings.home) / "identity.key")
        instance = Instance(COMPONENT, NOUN, config=file)
        typer.echo(f"wrote {file}: {len(settings.orchestrators)} nodes")
        typer.echo(f"broadcaster id: {identity.id}")
        if key and keys_file:
            typer.echo(f"key of {key}, shown this once: {add_key(keys_file, key)}")
        typer.echo(f"next: {instance.command('doctor')}\nthen: {instance.command('serve')}")


def doctor(config: Config = None, name: Name = None, limit: Limit = None, as_json: Json = False) -> None:
    """Look at this machine and at the nodes, and say how to mend what keeps a broadcaster from working.

    Exit codes: 0 nothing does, 1 something does.

    Example: broadcaster doctor --config broadcaster.yaml
    """
    from broadcaster.operator.doctor_checks import CHECKS, BroadcasterMachine

    telemetry.configure("broadcaster", "warning")
    settings, faults = _settings_or_faults(config, name)
    with exit_codes():
        lines = chain(faults, examine(BroadcasterMachine(settings), CHECKS, limit))
        show_findings(NOUN, settings.name, lines, as_json=as_json)


def _settings_or_faults(config: Path | None, name: str | None) -> tuple[BroadcasterSettings, list[Line]]:
    """The settings; those of no file at all, and what is wrong, when the file cannot be taken."""
    from broadcaster.settings import BroadcasterSettings

    try:
        return settings_of(config, name), []
    except ConfigError as error:
        check = Instance(COMPONENT, NOUN, config=config).command("config check")
        return BroadcasterSettings(), config_faults(error, f"mend it; `{check}` says what counts")
