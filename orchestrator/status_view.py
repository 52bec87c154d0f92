"""A node's status for a terminal: what is what, in the manner of nvidia-smi, two lines for each device and slot.

Names, ids and reasons come from strangers: they are shown as plain text, cut, and without control characters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orchestrator.status import DeviceStatus, ModelStatus, NodeStatus, SlotStatus
from reelnet.errors import printable

GIB = 2**30
NAME_CHARS = 80
REASON_CHARS = 500
LONG_BAR, SHORT_BAR = 12, 5
COLOURS = {"ready": "green", "busy": "cyan", "backoff": "red", "evicted": "dim", "stopped": "dim"}
HOT_C = 85
FULL = 0.95
UNKNOWN = "–"
DRAINED = "the node is drained: `orchestrator resume` has it take jobs"
NARROW, WIDE = 76, 100


@dataclass(frozen=True)
class StatusView:
    """The whole status, as wide as the terminal; below NARROW columns without power, memory and pace."""

    status: NodeStatus

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's way to ask for what is shown."""
        status, width = self.status, options.max_width
        yield _header(status)
        if status.drained:
            yield Text(DRAINED, "yellow")
        if status.devices:
            yield _devices(status.devices, width)
        yield _slots(status.slots, width) if status.slots else Text("no slots: no models are configured", "yellow")
        yield from (_reason(device.name, device.problem) for device in status.devices if device.problem)
        yield from (_reason(slot.slot, slot.reason) for slot in status.slots if slot.reason)


@dataclass(frozen=True)
class ModelsView:
    """The configured models, in the order of the file; below NARROW columns without memory and digest."""

    models: tuple[ModelStatus, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Rich's way to ask for what is shown."""
        table, wide = _table(), options.max_width >= NARROW
        table.add_column("model", min_width=20, ratio=1, overflow="ellipsis")
        for name in ("loaded", "queue", "memory", "digest") if wide else ("loaded", "queue"):
            table.add_column(name, no_wrap=True)
        table.add_column("price, dollars", min_width=12, ratio=1, overflow="fold")
        for model in self.models:
            table.add_row(
                _lines(_name(model.model, style="bold"), _plain(_place(model))),
                _loaded(model),
                _plain(f"{model.queued} of {model.queue}"),
                *([_plain(size(model.memory_bytes)), _name(model.digest[:8] or UNKNOWN)] if wide else []),
                _prices(model),
            )
        yield table


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


def jobs_here(status: NodeStatus) -> str:
    """How many jobs are here, in words."""
    running = sum(slot.job_id is not None for slot in status.slots)
    return f"{status.jobs} {'job' if status.jobs == 1 else 'jobs'} here: {running} running, {status.queued} waiting"


def _header(status: NodeStatus) -> RenderableType:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column()
    grid.add_column(justify="right", no_wrap=True)
    what = f"reelnet {printable(status.version, 40)}  {printable(status.engine, 40)} engine  up {span(status.since_s)}"
    state = Text("DRAINING", "bold black on yellow") if status.draining else Text("serving", "green")
    grid.add_row(_plain(what, "bold"), state)
    return Group(grid, _name(status.address, 160), _plain(jobs_here(status)))


def _devices(devices: Iterable[DeviceStatus], width: int) -> Table:
    table = _table()
    table.add_column("device", min_width=12, ratio=1, overflow="ellipsis")
    wide = width >= NARROW
    for name in ("memory", "load", "temp", "power", "state") if wide else ("memory", "load", "temp", "state"):
        table.add_column(name, no_wrap=True)
    for device in devices:
        table.add_row(
            _lines(_name(device.name, style="bold"), _name(device.title)),
            _memory(device),
            _plain(UNKNOWN if device.utilisation is None else f"{device.utilisation:.0%}"),
            _number(device.temperature_c, "°C", device.temperature_c is not None and device.temperature_c >= HOT_C),
            *([_number(device.power_w, "W")] if wide else []),
            Text("problem", "bold red") if device.problem else Text("ok", "green"),
        )
    return table


def _slots(slots: Iterable[SlotStatus], width: int) -> Table:
    table, wide = _table(), width >= NARROW
    table.add_column("slot", min_width=16, ratio=1, overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("job", min_width=18, ratio=1, no_wrap=True, overflow="ellipsis")
    if wide:
        table.add_column("memory", no_wrap=True)
        table.add_column("pace\np50 / p95", no_wrap=True)
    for slot in slots:
        where = Text.assemble(_name(slot.device, style="dim"), " ", _name(slot.model))
        cells = [_lines(_name(slot.slot, style="bold"), where), _state(slot), _job(slot, width)]
        table.add_row(*cells, *([_plain(size(slot.memory_bytes)), _pace(slot)] if wide else []))
    return table


def _state(slot: SlotStatus) -> Text:
    since = Text.assemble(_name(slot.state, style=COLOURS.get(slot.state, "yellow")), f" {span(slot.since_s)}")
    restarts = f"{slot.restarts} {'restart' if slot.restarts == 1 else 'restarts'}" if slot.restarts else ""
    return _lines(since, _plain(restarts, "yellow"))


def _job(slot: SlotStatus, width: int) -> Text:
    if slot.job_id is None:
        return _plain(UNKNOWN)
    cells = LONG_BAR if width >= WIDE else SHORT_BAR
    return _lines(_name(slot.job_id), Text.assemble(_bar(slot, cells), _name(slot.stage or "", style="dim")))


def _bar(slot: SlotStatus, cells: int) -> Text:
    """`███░░ 12/30 `, readable without colours."""
    if not slot.total or slot.step is None:
        return Text()
    done = max(0, min(cells, cells * slot.step // slot.total))
    return Text.assemble(("█" * done, "cyan"), ("░" * (cells - done), "dim"), f" {slot.step}/{slot.total} ")


def _pace(slot: SlotStatus) -> Text:
    rate = UNKNOWN if slot.jobs_per_h is None else f"{slot.jobs_per_h:.0f} jobs/h"
    return _lines(_plain(rate), _plain("" if slot.p50_s is None else f"{span(slot.p50_s)} / {span(slot.p95_s)}", "dim"))


def _memory(device: DeviceStatus) -> Text:
    if device.memory_bytes is None:
        return _plain(size(device.memory_used_bytes))
    used = device.memory_used_bytes
    share = 0.0 if used is None or not device.memory_bytes else used / device.memory_bytes
    return _plain(f"{UNKNOWN if used is None else f'{used / GIB:.1f}'} / {size(device.memory_bytes)}",
                  "red" if share >= FULL else "")  # fmt: skip


def _number(value: float | None, unit: str, high: bool = False) -> Text:
    return _plain(UNKNOWN if value is None else f"{value:.0f} {unit}", "bold red" if high else "")


def _place(model: ModelStatus) -> str:
    return f"{'warm' if model.warm else 'on demand'}{f', on {printable(model.device, 60)}' if model.device else ''}"


def _loaded(model: ModelStatus) -> Text:
    colour = "green" if model.loaded >= model.replicas else "yellow" if model.warm else ""
    return _plain(f"{model.loaded} of {model.replicas}", colour)


def _prices(model: ModelStatus) -> Text:
    rows = [
        Text(
            f"{printable(pipeline, 40)}: " + (", ".join(f"{rate} {amount}" for rate, amount in rates.items()) or "free")
        )
        for pipeline, rates in model.prices.items()
    ]
    return Text("\n").join(rows) if rows else _plain("all pipelines: free")


def _reason(name: str, reason: str) -> Text:
    return Text.assemble(("! ", "bold red"), _name(name, style="bold"), ": ", printable(reason, REASON_CHARS))


def _table() -> Table:
    return Table(box=box.SQUARE, expand=True, header_style="dim", show_lines=True)


def _lines(*lines: Text) -> Text:
    return Text("\n").join(line for line in lines if line.plain)


def _name(text: str, chars: int = NAME_CHARS, *, style: str = "") -> Text:
    return Text(printable(text, chars), style)


def _plain(text: str, style: str = "") -> Text:
    return Text(text, style)
