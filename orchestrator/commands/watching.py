"""`status`, `models`, `logs`: what a running node is like."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from orchestrator.commands.options import (
    Config,
    Json,
    Name,
    client_of,
    exit_codes,
    print_json,
    settings_of,
    to_terminal,
)
from orchestrator.control_client import ControlClient, ControlError
from orchestrator.log_tail import LogTail
from orchestrator.models_on_disk import models_on_disk
from orchestrator.status import to_document
from orchestrator.status_view import ModelsView, StatusView

FOLLOW_S = 1.0
LINES = 100
Seconds = Annotated[float, typer.Argument(help="Seconds between two looks.", min=0.2, max=3600, metavar="SECONDS")]


def status(
    seconds: Seconds = 2,
    config: Config = None,
    name: Name = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show a running node: its devices, its slots, and the jobs on them.

    Example: orchestrator status --watch 5
    """
    with exit_codes():
        client = client_of(config, name)
        if not watch:
            _show(client, to_terminal(), as_json)
            return
        with _until_interrupted():
            _watch(client, to_terminal(), seconds, as_json)


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
    lines: Annotated[int, typer.Option(help="Lines of each slot.", min=1, max=10_000)] = LINES,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")] = False,
) -> None:
    """Print what the runners say.

    Example: orchestrator logs acme-sdxl-1f00aa-0 --lines 50 --follow
    """
    with exit_codes():
        client = client_of(config, name)
        if slot:
            tails = {slot: LogTail("", lines)}
            _print_log(client, slot, tails[slot])
        else:
            tails = {known.slot: LogTail(known.slot, lines) for known in client.status().slots}
            _print_logs(client, tails)
        with _until_interrupted():
            while follow:
                time.sleep(FOLLOW_S)
                _print_logs(client, tails)


def _print_log(client: ControlClient, slot: str, tail: LogTail) -> None:
    for line in tail.new_lines(client.logs(slot, tail.lines)):
        typer.echo(line)


def _print_logs(client: ControlClient, tails: dict[str, LogTail]) -> None:
    """Each slot's; one that has no runner at the moment keeps nobody from the others."""
    for slot, tail in tails.items():
        try:
            _print_log(client, slot, tail)
        except ControlError as error:
            for line in tail.note(str(error)):
                typer.echo(line, err=True)


def _show(client: ControlClient, console: Console, as_json: bool) -> None:
    if as_json:
        print_json(to_document(client.status()))
    else:
        console.print(StatusView(client.status()))


def _watch(client: ControlClient, console: Console, seconds: float, as_json: bool) -> None:
    """In place on a terminal; one after the other elsewhere. A node that goes away is waited for."""
    first = client.status()
    if as_json or not console.is_terminal:
        for shown in _frames(client, seconds, as_json):
            if shown is not None:
                console.print(shown)
        return
    with Live(StatusView(first), console=console, auto_refresh=False, screen=True) as live:
        for shown in _frames(client, seconds, as_json=False):
            if shown is not None:
                live.update(shown, refresh=True)


def _frames(client: ControlClient, seconds: float, as_json: bool) -> Iterator[RenderableType | None]:
    """What to show, each time that it is time; JSON is printed here, a line each."""
    while True:
        try:
            now = client.status()
        except ControlError as error:
            yield Text(f"error: {error}; asking again every {seconds:g} s", "red") if not as_json else None
        else:
            if as_json:
                print_json(to_document(now), indent=None)
            yield None if as_json else StatusView(now)
        time.sleep(seconds)


@contextmanager
def _until_interrupted() -> Iterator[None]:
    """Ctrl-C is the way to end what goes on for ever."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
