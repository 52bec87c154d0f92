"""A node's status for a terminal: what is what, in the manner of nvidia-smi, two lines for each device and slot.

Names, ids and reasons come from strangers: they are shown as plain text, cut, and without control characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orchestrator.status import DeviceStatus, ModelStatus, NodeStatus, SlotStatus, WatcherStatus
from reelnet.clocks import skew_text
from reelnet.errors import printable
from reelnet.operating.console import GIB, PIPE_COLUMNS, UNKNOWN, framed_table, lines, named, plain, reason, size, span

LONG_BAR, SHORT_BAR = 12, 5
COLOURS = {"ready": "green", "busy": "cyan", "backoff": "red", "evicted": "dim", "stopped": "dim"}
HOT_C = 85
FULL = 0.95
DRAINED = "the node is drained: `orchestrator resume` has it take jobs"
NARROW, WIDE = 76, 100


@dataclass(frozen=True)
class StatusView:
    """The whole status, as wide as the terminal; below NARROW columns without power, memory and pace."""

    status: NodeStatus

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's way to ask for what is shown."""
        status, width = self.status, options.max_width
        yield _header(status, width)
        if status.drained:
            yield Text(DRAINED, "yellow")
        if status.devices:
            yield _devices(status.devices, width)
        yield _slots(status.slots, width) if status.slots else Text("no slots: no models are configured", "yellow")
        yield from (reason(device.name, device.problem) for device in status.devices if device.problem)
        yield from (reason(slot.slot, slot.reason) for slot in status.slots if slot.reason)
        yield from (reason(f"broadcaster {w.id}", fault) for w in status.watchers for fault in _faults(w, status))


@dataclass(frozen=True)
class ModelsView:
    """The configured models, in the order of the file; below NARROW columns without memory and digest."""

    models: tuple[ModelStatus, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's way to ask for what is shown."""
        table, wide = framed_table(options.max_width), options.max_width >= NARROW
        table.add_column("model", min_width=20, ratio=1, overflow="ellipsis")
        for name in ("loaded", "queue", "memory", "digest") if wide else ("loaded", "queue"):
            table.add_column(name, no_wrap=True)
        table.add_column("price, dollars", min_width=12, ratio=1, overflow="fold")
        for model in self.models:
            table.add_row(
                lines(named(model.model, style="bold"), plain(_place(model))),
                _loaded(model),
                plain(f"{model.queued} of {model.queue}"),
                *([plain(size(model.memory_bytes)), named(model.digest[:8] or UNKNOWN)] if wide else []),
                _prices(model),
            )
        yield table
        yield from (reason(model.model, model.problem) for model in self.models if model.problem)


def _faults(watcher: WatcherStatus, status: NodeStatus) -> Iterable[str]:
    if not watcher.served:
        yield "it watches and is not served; to serve it, add its id to `broadcasters`, and reload"
    if watcher.skew_s is not None and abs(watcher.skew_s) > status.skew_warn_s:
        yield f"{skew_text(watcher.skew_s)}; set both machines' clocks (NTP)"


def jobs_here(status: NodeStatus) -> str:
    """How many jobs are here, in words."""
    running = sum(slot.job_id is not None for slot in status.slots)
    return f"{status.jobs} {'job' if status.jobs == 1 else 'jobs'} here: {running} running, {status.queued} waiting"


def _header(status: NodeStatus, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=width < PIPE_COLUMNS)
    grid.add_column()
    grid.add_column(justify="right", no_wrap=True)
    what = f"reelnet {printable(status.version, 40)}  {printable(status.engine, 40)} engine  up {span(status.since_s)}"
    state = Text("DRAINING", "bold black on yellow") if status.draining else Text("serving", "green")
    grid.add_row(plain(what, "bold"), state)
    return Group(grid, named(status.address), plain(jobs_here(status)))


def _devices(devices: Iterable[DeviceStatus], width: int) -> Table:
    table = framed_table(width)
    table.add_column("device", min_width=12, ratio=1, overflow="ellipsis")
    wide = width >= NARROW
    for name in ("memory", "load", "temp", "power", "state") if wide else ("memory", "load", "temp", "state"):
        table.add_column(name, no_wrap=True)
    for device in devices:
        table.add_row(
            lines(named(device.name, style="bold"), named(device.title)),
            _memory(device),
            plain(UNKNOWN if device.utilisation is None else f"{device.utilisation:.0%}"),
            _number(device.temperature_c, "°C", device.temperature_c is not None and device.temperature_c >= HOT_C),
            *([_number(device.power_w, "W")] if wide else []),
            Text("problem", "bold red") if device.problem else Text("ok", "green"),
        )
    return table


def _slots(slots: Iterable[SlotStatus], width: int) -> Table:
    table, wide = framed_table(width), width >= NARROW
    table.add_column("slot", min_width=16, ratio=1, overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("job", min_width=18, ratio=1, no_wrap=True, overflow="ellipsis")
    if wide:
        table.add_column("memory", no_wrap=True)
        table.add_column("pace\np50 / p95", no_wrap=True)
    for slot in slots:
        where = Text.assemble(named(slot.device, style="dim"), " ", named(slot.model))
        cells = [lines(named(slot.slot, style="bold"), where), _state(slot), _job(slot, width)]
        table.add_row(*cells, *([plain(size(slot.memory_bytes)), _pace(slot)] if wide else []))
    return table


def _state(slot: SlotStatus) -> Text:
    since = Text.assemble(named(slot.state, style=COLOURS.get(slot.state, "yellow")), f" {span(slot.since_s)}")
    restarts = f"{slot.restarts} {'restart' if slot.restarts == 1 else 'restarts'}" if slot.restarts else ""
    return lines(since, plain(restarts, "yellow"))


def _job(slot: SlotStatus, width: int) -> Text:
    if slot.job_id is None:
        return plain(UNKNOWN)
    cells = LONG_BAR if width >= WIDE else SHORT_BAR
    return lines(named(slot.job_id), Text.assemble(_bar(slot, cells), named(slot.stage or "", style="dim")))


def _bar(slot: SlotStatus, cells: int) -> Text:
    """`███░░ 12/30 `, readable without colours."""
    if not slot.total or slot.step is None:
        return Text()
    done = max(0, min(cells, cells * slot.step // slot.total))
    return Text.assemble(("█" * done, "cyan"), ("░" * (cells - done), "dim"), f" {slot.step}/{slot.total} ")


def _pace(slot: SlotStatus) -> Text:
    rate = UNKNOWN if slot.jobs_per_h is None else f"{slot.jobs_per_h:.0f} jobs/h"
    return lines(plain(rate), plain("" if slot.p50_s is None else f"{span(slot.p50_s)} / {span(slot.p95_s)}", "dim"))


def _memory(device: DeviceStatus) -> Text:
    if device.memory_bytes is None:
        return plain(size(device.memory_used_bytes))
    used = device.memory_used_bytes
    share = 0.0 if used is None or not device.memory_bytes else used / device.memory_bytes
    return plain(f"{UNKNOWN if used is None else f'{used / GIB:.1f}'} / {size(device.memory_bytes)}",
                  "red" if share >= FULL else "")  # fmt: skip


def _number(value: float | None, unit: str, high: bool = False) -> Text:
    return plain(UNKNOWN if value is None else f"{value:.0f} {unit}", "bold red" if high else "")


def _place(model: ModelStatus) -> str:
    return f"{'warm' if model.warm else 'on demand'}{f', on {printable(model.device, 60)}' if model.device else ''}"


def _loaded(model: ModelStatus) -> Text:
    colour = "green" if model.loaded >= model.replicas else "yellow" if model.warm else ""
    return plain(f"{model.loaded} of {model.replicas}", colour)


def _prices(model: ModelStatus) -> Text:
    rows = [
        Text(
            f"{printable(pipeline, 40)}: " + (", ".join(f"{rate} {amount}" for rate, amount in rates.items()) or "free")
        )
        for pipeline, rates in model.prices.items()
    ]
    return Text("\n").join(rows) if rows else plain("all pipelines: free")
