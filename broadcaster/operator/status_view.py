"""A broadcaster's status for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from broadcaster.operator.status import BroadcasterStatus, PoolNode
from reelnet.clocks import skew_text
from reelnet.errors import printable
from reelnet.operating.console import PIPE_COLUMNS, UNKNOWN, framed_table, lines, named, plain, reason, span

NARROW = 76
ID_CHARS = 10
COLOURS = {"up": "green", "down": "red", "refuses": "yellow"}


@dataclass(frozen=True)
class StatusView:
    """The whole status, as wide as the terminal."""

    status: BroadcasterStatus

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's way to ask for what is shown."""
        status = self.status
        yield _header(status, options.max_width)
        if status.nodes:
            yield NodesView(status.nodes)
        if status.problem:
            yield reason("not ready", status.problem)
        yield from (reason(shown_id(node), fault) for node in status.nodes for fault in _faults(node, status))


@dataclass(frozen=True)
class NodesView:
    """The nodes of the pool; below NARROW columns without clock and models."""

    nodes: tuple[PoolNode, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's way to ask for what is shown."""
        yield _table(self.nodes, options.max_width)


def jobs_here(status: BroadcasterStatus) -> str:
    """How many jobs are here, in words."""
    return f"{counted(status.jobs, 'job')} here"


def counted(number: int, noun: str) -> str:
    """Such as `1 job`, `2 jobs`."""
    return f"{number} {noun if number == 1 else noun + 's'}"


def shown_id(node: PoolNode) -> str:
    """What tells a node apart: the first characters of its id, or its address while it has none."""
    return node.address if ":" in node.node_id else node.node_id[:ID_CHARS]


def _header(status: BroadcasterStatus, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=width < PIPE_COLUMNS)
    grid.add_column()
    grid.add_column(justify="right", no_wrap=True)
    what = f"reelnet {printable(status.version, 40)}  broadcaster  up {span(status.since_s)}"
    grid.add_row(plain(what, "bold"), _state(status))
    keys = "no key is asked for" if status.keys is None else counted(status.keys, "key")
    up = sum(node.state == "up" for node in status.nodes)
    facts = f"{jobs_here(status)}, {up} of {len(status.nodes)} nodes up, {keys}"
    return Group(grid, named(f"{status.url}  id {status.broadcaster_id}"), plain(facts))


def _state(status: BroadcasterStatus) -> Text:
    if status.draining:
        return Text("DRAINING", "bold black on yellow")
    return Text("not ready", "bold red") if status.problem else Text("serving", "green")


def _table(nodes: Iterable[PoolNode], width: int) -> Table:
    table, wide = framed_table(width), width >= NARROW
    table.add_column("node", min_width=22, ratio=1, overflow="fold")
    for name in ("state", "jobs", "clock") if wide else ("state", "jobs"):
        table.add_column(name, no_wrap=True)
    if wide:
        table.add_column("models", min_width=16, ratio=1, overflow="fold")
    for node in nodes:
        state = Text.assemble(named(node.state, style=COLOURS.get(node.state, "")), f" {span(node.since_s)}")
        cells = [
            lines(named(shown_id(node), style="bold"), named(node.address, style="dim")),
            state,
            plain(str(node.jobs)),
        ]
        models = Text("\n").join([named(model) for model in node.models]) if node.models else plain(UNKNOWN)
        table.add_row(*cells, *([plain(_skew(node)), models] if wide else []))
    return table


def _skew(node: PoolNode) -> str:
    return UNKNOWN if node.skew_s is None else f"{node.skew_s:+.1f} s"


def _faults(node: PoolNode, status: BroadcasterStatus) -> Iterable[str]:
    if node.state != "up":
        yield node.reason
    if node.skew_s is not None and abs(node.skew_s) > status.skew_warn_s:
        yield f"{skew_text(node.skew_s)}; set both machines' clocks (NTP)"
