"""`status`, `drain` and `logs`, the same for every component: shown once or again and again, waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.status import Status
from rich.text import Text

from reelnet.errors import printable
from reelnet.lifecycle import EXIT_FAILED, EXIT_FORCED
from reelnet.operating.console import print_json, to_terminal
from reelnet.operating.control_client import ControlError, Instance
from reelnet.operating.log_tail import LogTail
from reelnet.operating.options import until_interrupted

FOLLOW_S = 1.0
POLL_S = 0.5
LINE_CHARS = 1000
LogOf = Callable[[str, int], str]
"""The last so many lines of a log by its name. Raises ControlError."""


@dataclass(frozen=True, slots=True)
class StatusWatch:
    """A component's status: `ask` gets it, `view` shows it on a terminal, `document` is its JSON."""

    ask: Callable[[], Any]
    view: Callable[[Any], RenderableType]
    document: Callable[[Any], dict[str, Any]]

    def show(self, *, watch: bool, seconds: float, as_json: bool) -> None:
        """Prints it; with `watch` every `seconds` until Ctrl-C. Raises ControlError when nobody answers at first."""
        console = to_terminal()
        if watch:
            with until_interrupted():
                self._watch(console, seconds, as_json)
        elif as_json:
            print_json(self.document(self.ask()))
        else:
            console.print(self.view(self.ask()))

    def _watch(self, console: Console, seconds: float, as_json: bool) -> None:
        """In place on a terminal; one after the other elsewhere. A component that goes away is waited for."""
        first = self.ask()
        if as_json or not console.is_terminal:
            for shown in self._frames(seconds, as_json):
                if shown is not None:
                    console.print(shown)
            return
        with Live(self.view(first), console=console, auto_refresh=False, screen=True) as live:
            for shown in self._frames(seconds, as_json=False):
                if shown is not None:
                    live.update(shown, refresh=True)

    def _frames(self, seconds: float, as_json: bool) -> Iterator[RenderableType | None]:
        """What to show, each time that it is time; JSON is printed here, a line each."""
        while True:
            try:
                now = self.ask()
            except ControlError as error:
                yield Text(f"error: {error}; asking again every {seconds:g} s", "red") if not as_json else None
            else:
                if as_json:
                    print_json(self.document(now), indent=None)
                yield None if as_json else self.view(now)
            time.sleep(seconds)


class Drainable(Protocol):
    """The part of a status that a drain waits for."""

    @property
    def draining(self) -> bool:
        """Whether no new job is taken."""

    @property
    def idle(self) -> bool:
        """Whether no job is here any more."""


class DrainClient(Protocol):
    """The way to a component that can be drained."""

    @property
    def instance(self) -> Instance:
        """Which one it is."""

    def drain(self) -> Drainable:
        """Has it take no new job."""

    def status(self) -> Drainable:
        """What it is like now."""


@dataclass(frozen=True, slots=True)
class DrainWait:
    """Waits until a component that drains has no job; `left` says how many there are, `resume` is a command line."""

    noun: str
    ask: Callable[[], Drainable]
    left: Callable[[Any], str]
    resume: str

    def until_idle(self, now: Drainable, timeout_s: float | None) -> None:
        """Shows how many jobs are left; on a terminal in place, else a line at each change."""
        try:
            self._follow(now, timeout_s)
        except KeyboardInterrupt:
            typer.echo(f"the {self.noun} goes on draining; `{self.resume}` has it take jobs again", err=True)
            raise typer.Exit(EXIT_FORCED) from None

    def _follow(self, now: Drainable, timeout_s: float | None) -> None:
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        console = to_terminal(stderr=True)
        said = ""
        with Status("", console=console) as spinner:
            while not now.idle:
                if ends_at is not None and time.monotonic() >= ends_at:
                    left = f"{self.left(now)}; the {self.noun} goes on draining"
                    typer.echo(f"not drained within {timeout_s:g} s: {left}", err=True)
                    raise typer.Exit(EXIT_FAILED)
                if said != (said := f"draining: {self.left(now)}"):
                    spinner.update(said)
                    if not console.is_terminal:
                        typer.echo(said, err=True)
                time.sleep(POLL_S)
                now = self.ask()
                if not now.draining:
                    raise ControlError(f"the {self.noun} was told to take jobs again by somebody else")


def drain(client: DrainClient, left: Callable[[Any], str], *, wait: bool, timeout_s: float | None) -> None:
    """Has a component take no new job, and waits until those that it has are done. Raises ControlError."""
    noun, resume, now = client.instance.noun, client.instance.command("resume"), client.drain()
    if not wait:
        typer.echo(f"draining: {left(now)}")
        return
    DrainWait(noun, client.status, left, resume).until_idle(now, timeout_s)
    typer.echo(f"drained: no job is here; stop the {noun}, or have it take jobs again with `{resume}`")


def print_logs(tails: Mapping[str, LogTail], log_of: LogOf, *, follow: bool) -> None:
    """The logs, each with what is new in it; with `follow` until Ctrl-C. A single log that is not there is an error."""
    _print_all(tails, log_of, strict=len(tails) == 1)
    with until_interrupted():
        while follow:
            time.sleep(FOLLOW_S)
            _print_all(tails, log_of, strict=False)


def _print_all(tails: Mapping[str, LogTail], log_of: LogOf, *, strict: bool) -> None:
    """Each log; one that is not there at the moment keeps nobody from the others."""
    for named, tail in tails.items():
        try:
            for line in tail.new_lines(log_of(named, tail.lines)):
                typer.echo(line)
        except ControlError as error:
            if strict:
                raise
            for line in tail.note(str(error)):
                typer.echo(line, err=True)


def print_changes(changed: tuple[str, ...], *, err: bool = False) -> None:
    """What a reload has changed, a line each."""
    for line in changed or ("nothing changed",):
        typer.echo(printable(line, LINE_CHARS), err=err)
