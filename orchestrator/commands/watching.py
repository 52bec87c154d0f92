"""`status`, `models`, `logs`: what a running node is like."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from orchestrator.commands.options import client_of, settings_of
from orchestrator.models_on_disk import models_on_disk
from orchestrator.status import to_document
from orchestrator.status_view import ModelsView, StatusView
from reelnet.operating.console import print_json, to_terminal
from reelnet.operating.control_client import ControlError
from reelnet.operating.log_tail import LogTail
from reelnet.operating.options import Config, Follow, Json, Lines, Name, Seconds, Watch, exit_codes
from reelnet.operating.watching import StatusWatch, print_logs

LINES = 100


def status(
    seconds: Seconds = 2, config: Config = None, name: Name = None, watch: Watch = False, as_json: Json = False
) -> None:
    """Show a running node: its devices, its slots, and the jobs on them.

    Example: orchestrator status --watch 5
    """
    with exit_codes():
        watched = StatusWatch(client_of(config, name).status, StatusView, to_document)
        watched.show(watch=watch, seconds=seconds, as_json=as_json)


def models(config: Config = None, name: Name = None, as_json: Json = False) -> None:
    """List the configured models: what is loaded, what waits, what is asked for them.

    Without a running node it lists what the file says and what lies in the models' folder.

    Example: orchestrator models --config orchestrator.yaml
    """
    with exit_codes():
        settings = settings_of(config, name)
        try:
            listed, note = client_of(config, name).status().models, ""
        except ControlError as error:
            listed, note = models_on_disk(settings), f"as configured: {error}"
        if as_json:
            print_json([to_document(model) for model in listed])
            return
        console = to_terminal()
        console.print(ModelsView(listed) if listed else Text("no models are configured", "yellow"))
        if note:
            console.print(Text(note, "dim"))


def logs(
    slot: Annotated[str | None, typer.Argument(help="One slot; default: all of them.", metavar="SLOT")] = None,
    config: Config = None,
    name: Name = None,
    lines: Lines = LINES,
    follow: Follow = False,
) -> None:
    """Print what the runners say.

    Example: orchestrator logs acme-sdxl-1f00aa-0 --lines 50 --follow
    """
    with exit_codes():
        client = client_of(config, name)
        slots = [slot] if slot else [known.slot for known in client.status().slots]
        print_logs({known: LogTail("" if slot else known, lines) for known in slots}, client.logs, follow=follow)
