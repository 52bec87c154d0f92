"""The table of what hostile peers cost: quantiles of all rounds together, ratios round by round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmark.overhead_figures import quantile
from tests.hostile.honest import Served

WIDTH = 100
SHARES = (0.5, 0.95)
BUSY = 0.05
"""Share of the machine used by others from which on ratios are called noisy."""


@dataclass(frozen=True)
class Turn:
    """One round of one kind."""

    without: Served
    beside: Served


@dataclass
class Row:
    """One kind of hostile peer: its rounds, and what it did in them all, by act."""

    kind: str
    turns: list[Turn] = field(default_factory=list)
    harm: Counter[str] = field(default_factory=Counter)

    @property
    def jobs(self) -> int:
        """Honest jobs beside the hostile peer that succeeded."""
        return sum(len(turn.beside.seconds) for turn in self.turns)

    @property
    def failures(self) -> list[str]:
        """Why honest jobs failed, beside the hostile peer or before it came."""
        return [text for turn in self.turns for text in (*turn.without.failures, *turn.beside.failures)]


def table(rows: Iterable[Row]) -> Table:
    """One row for each kind, milliseconds."""
    found = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    found.add_column("hostile", no_wrap=True)
    for share in SHARES:
        name = f"p{share * 100:.0f}"
        for head in (f"{name} ms\nwithout", "\nbeside", "ratio", "range"):
            found.add_column(head, justify="right", no_wrap=True)
    for head in ("jobs\nbeside", "failed"):
        found.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        cells = [cell for share in SHARES for cell in _cells(row, share)]
        found.add_row(row.kind, *cells, str(row.jobs), str(len(row.failures)))
    return found


def _cells(row: Row, share: float) -> list[str]:
    without = [s for turn in row.turns for s in turn.without.seconds]
    beside = [s for turn in row.turns for s in turn.beside.seconds]
    if not all(turn.without.seconds and turn.beside.seconds for turn in row.turns):
        return ["–"] * 4
    ratios = [quantile(t.beside.seconds, share) / quantile(t.without.seconds, share) for t in row.turns]
    return [
        f"{quantile(without, share) * 1e3:.1f}",
        f"{quantile(beside, share) * 1e3:.1f}",
        f"{median(ratios):.2f}",
        f"{min(ratios):.2f}–{max(ratios):.2f}",
    ]


def notes(rows: list[Row], others: float, rounds: int, cores: int) -> Iterable[str]:
    """What the table does not say."""
    yield f"{rounds} rounds; ratios: their median and range. Honest and hostile peers ran on the same {cores} cores."
    for row in rows:
        yield f"{row.kind}: " + ", ".join(f"{count} × {name}" for name, count in row.harm.items() if count)
        for text in dict.fromkeys(row.failures):
            yield f"{row.kind}: an honest job failed: {text}"
    if others > BUSY:
        yield f"note: others used {others:.0%} of the machine meanwhile: the ratios are noisy; run it again."
