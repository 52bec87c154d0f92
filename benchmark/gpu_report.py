"""What was measured on a card: a table for people, the same in Markdown, and JSON with every run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from benchmark.gpu_cases import AIMED_CARD, Case
from benchmark.intervals import Interval
from reelnet.errors import printable
from reelnet.operating.console import headline

GB = 1e9
TERA = 1e12
MISSING = "–"
_UNKNOWN = Interval(None)
HEADINGS = ("model", "net", "s each", "p90", "a minute", "memory", "TFLOP", "of the card", "aim", "ready")
NOTES = (
    "s each: median of whole jobs, one after the other, encoding and transport included. memory: the runner's peak. "
    "TFLOP: of one job's denoising and decoding, counted. of the card: TFLOP a second over its matrix products'. "
    "ready: seconds to the loaded, compiled model."
)


@dataclass(frozen=True, slots=True)
class Card:
    """The device, as `runner card` found it. `rates`: operations a second of matrix products, by number format."""

    name: str
    kind: str
    driver: str
    memory_bytes: int
    rates: Mapping[str, float]
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Result:
    """One case in one mode. `reason` says why there are no figures; `report` is the benchmark's own."""

    case: Case
    mode: str
    flops: Mapping[str, int]
    reason: str = ""
    variant: str = ""
    ready_s: float = 0.0
    memory_bytes: int = 0
    good: bool = False
    p50_s: Interval = _UNKNOWN
    p90_s: Interval = _UNKNOWN
    per_minute: Interval = _UNKNOWN
    report: Mapping[str, Any] | None = None

    def share(self, card: Card) -> float | None:
        """Operations a second over the card's rate in the model's number format; None where one is not known."""
        rate, seconds = card.rates.get(self.variant), self.p50_s.value
        return self.flops["total"] / seconds / rate if rate and seconds else None

    def verdict(self, card: Card) -> str:
        """The aim, and whether it was met, where the aim is of such a card."""
        if self.case.aim is None:
            return MISSING
        aim = f"≥ {self.case.aim:g}"
        if AIMED_CARD not in card.name:
            return f"{aim} ({AIMED_CARD})"
        return f"{aim} {'met' if (self.per_minute.value or 0) >= self.case.aim else 'MISSED'}"


def table(card: Card, results: Iterable[Result]) -> Table:
    """A row for each result; one that failed says why."""
    made = Table(title=headline(describe(card)), title_justify="left", box=SIMPLE_HEAD)
    for heading in HEADINGS:
        made.add_column(heading, justify="left" if heading in ("model", "net") else "right", overflow="fold")
    for result in results:
        made.add_row(*(Text(cell) for cell in cells(card, result)))
    return made


def markdown(card: Card, results: Iterable[Result]) -> str:
    """The table as docs/benchmarks.md has them."""
    lines = [describe(card), "", f"| {' | '.join(HEADINGS)} |", "|---|---" + "|---:" * (len(HEADINGS) - 2) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells(card, result))} |" for result in results]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(card.versions.items()))
    return "\n".join([*lines, "", NOTES, "", f"Versions: {versions}."]) + "\n"


def to_json(card: Card, results: Iterable[Result]) -> str:
    """Everything, each run included."""
    rows = [asdict(result) | {"share": result.share(card), "aim": result.verdict(card)} for result in results]
    return json.dumps({"card": asdict(card), "results": rows}, indent=1, default=dict) + "\n"


def describe(card: Card) -> str:
    """One line: the card, its driver, and what it was measured to do."""
    rates = ", ".join(f"{rate / TERA:.3g} TFLOP/s {name}" for name, rate in card.rates.items())
    driver = f", driver {card.driver}" if card.driver else ""
    memory = f", {card.memory_bytes / GB:.0f} GB" if card.memory_bytes else ""
    return f"{printable(card.name, 100)}{memory}{driver}; matrix products {rates}"


def cells(card: Card, result: Result) -> tuple[str, ...]:
    """A result's cells, in the order of HEADINGS."""
    case = result.case
    if result.reason:
        return case.title, result.mode, f"failed: {printable(result.reason, 300)}", *[MISSING] * (len(HEADINGS) - 3)
    share = result.share(card)
    return (
        case.title,
        result.mode if result.good else f"{result.mode}, NOT ALL GOOD",
        _number(result.p50_s.value, ".3f"),
        _number(result.p90_s.value, ".3f"),
        _with_ends(result.per_minute),
        f"{result.memory_bytes / GB:.1f} GB",
        f"{result.flops['total'] / TERA:.3g}",
        MISSING if share is None else f"{share:.1%}",
        result.verdict(card),
        f"{result.ready_s:.0f} s",
    )


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form)


def _with_ends(figure: Interval) -> str:
    if figure.value is None:
        return MISSING
    ends = "" if figure.low is None or figure.high is None else f" ({figure.low:.4g}–{figure.high:.4g})"
    return f"{figure.value:.4g}{ends}"
