"""How a command ends: one message, and a code that says who has to do something."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import typer

from reelnet.errors import ConfigError, StartError
from runner.backend import SetupError
from runner.models.store import StoreError

FAILED, USAGE, CANNOT_START = 1, 2, 3


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Ends the command with 1 (failed), 2 (usage or configuration) or 3 (cannot start)."""
    try:
        yield
    except ConfigError as error:
        _leave(error, USAGE)
    except StartError as error:
        _leave(error, CANNOT_START)
    except (StoreError, SetupError, OSError) as error:
        _leave(error, FAILED)


def _leave(error: Exception, code: int) -> None:
    typer.echo(f"runner: {error}", err=True)
    raise typer.Exit(code)
