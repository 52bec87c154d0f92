"""What commands print: as wide as a terminal, whole lines in a pipe; text of strangers without control characters."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reelnet.errors import printable

PIPE_COLUMNS = 100_000
"""So wide is what is no terminal: no line is wrapped and no name is cut there."""
GIB = 2**30
NAME_CHARS = 300
REASON_CHARS = 500
UNKNOWN = "–"


def to_terminal(columns: int | None = None, *, stderr: bool = False) -> Console:
    """Standard output, or error, for people: as wide as the terminal, or `columns`, and without bounds in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=columns if stream.isatty() else PIPE_COLUMNS)


def in_a_pipe(console: Console) -> bool:
    """Whether nothing is to be cut for want of columns."""
    return console.width >= PIPE_COLUMNS


def headline(text: str) -> Text:
    """A table's title, which may be longer than the table is wide."""
    return Text(text, "bold", no_wrap=True, overflow="ignore")


def print_json(document: Any, *, indent: int | None = 2) -> None:
    """Standard output, for programs."""
    typer.echo(json.dumps(document, indent=indent, ensure_ascii=False))


def framed_table(width: int) -> Table:
    """A table with lines, as wide as the terminal; in a pipe as wide as its content."""
    return Table(box=box.SQUARE, expand=width < PIPE_COLUMNS, header_style="dim", show_lines=True)


def named(text: str, chars: int = NAME_CHARS, *, style: str = "") -> Text:
    """What somebody else has named, as plain text."""
    return Text(printable(text, chars), style)


def plain(text: str, style: str = "") -> Text:
    """Text of our own."""
    return Text(text, style)


def lines(*parts: Text) -> Text:
    """Those of the parts that are not empty, a line each."""
    return Text("\n").join(part for part in parts if part.plain)


def reason(what: str, why: str) -> Text:
    """A line that says what keeps something from working."""
    return Text.assemble(("! ", "bold red"), named(what, style="bold"), ": ", printable(why, REASON_CHARS))


def size(count: int | None) -> str:
    """Bytes in GiB."""
    return UNKNOWN if count is None else f"{count / GIB:.1f} GiB"


def span(seconds: float | None) -> str:
    """A length of time, short: 0.3 s, 12 s, 3:20 min, 2:05 h, 3 d 04 h."""
    if seconds is None:
        return UNKNOWN
    whole = round(seconds)
    if whole < 10:
        return f"{seconds:.1f} s"
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 86_400:
        return f"{whole // 3600}:{whole // 60 % 60:02d} h"
    return f"{whole // 86_400} d {whole // 3600 % 24:02d} h"
