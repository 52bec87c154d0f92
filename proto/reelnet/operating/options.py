"""What the commands of every component have in common: options, and exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from reelnet.errors import ConfigError, StartError
from reelnet.lifecycle import report

CLIENT_GRACE_S = 5
"""A component gives up before its operator does, and says why."""
Config = Annotated[Path | None, typer.Option(help="YAML file; see docs/operate.md.", metavar="FILE")]
Name = Annotated[str | None, typer.Option(help="Instance name: one state folder each.", metavar="NAME")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Seconds = Annotated[float, typer.Argument(help="Seconds between two looks.", min=0.2, max=3600, metavar="SECONDS")]
Watch = Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the jobs that are here have ended.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait at most; 1 is the exit code then.", min=0)]
Lines = Annotated[int, typer.Option(help="Lines of each log.", min=1, max=10_000)]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")]
Limit = Annotated[float | None, typer.Option(help="Seconds for each check.", min=0.1, max=3600)]


@contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the command with 2 or 3 and one message, when the operator has to do something."""
    try:
        yield
    except (ConfigError, StartError) as error:
        raise typer.Exit(report(error)) from None


@contextmanager
def until_interrupted() -> Iterator[None]:
    """Ctrl-C is the way to end what goes on for ever."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
