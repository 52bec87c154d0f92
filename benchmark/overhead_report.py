"""The overhead benchmark's tables, at most 100 columns wide, and its document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.overhead_figures import FIGURES, MEGA, TARGETS, Ratio, Turn, pooled, ratio, size_name, target_of
from benchmark.overhead_subjects import CONTRACT, PRODUCT, SUBJECTS, UNARY

ROLES = ("broadcaster", "checker", "node", "runner")
BUSY = 0.05
"""Share of the machine used by others from which on ratios are called noisy."""
WIDTH = 100


@dataclass(frozen=True, slots=True)
class Checks:
    """What the check of one result costs, milliseconds: of pictures padded to a size, and of a real one of 1 MB."""

    padded_ms: dict[int, float]
    real_ms: float
    real_bytes: int


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything that was measured. `others` is the share of the machine that was used by others meanwhile."""

    turns: tuple[Turn, ...]
    rounds: int
    concurrency: int
    others: float
    cores: int
    checks: Checks

    @property
    def sizes(self) -> tuple[int, ...]:
        """The results' sizes, in their order."""
        return tuple(dict.fromkeys(turn.size for turn in self.turns))

    def of(self, subject: str, size: int) -> list[Turn]:
        """A subject's turns."""
        return [turn for turn in self.turns if (turn.subject, turn.size) == (subject, size)]


def missed(measured: Measured) -> list[str]:
    """The targets that are not met, of the sizes that were measured."""
    return [
        f"{target.figure.name}, {size_name(target.size)}: {found:.2f}, {target} is asked"
        for target in TARGETS
        if target.size in measured.sizes
        and not target.met(found := ratio(measured.turns, target.figure, target.size, PRODUCT, CONTRACT).median)
    ]


def show(measured: Measured, console: Console) -> None:
    """Prints latencies and rates, CPU by role, ratios, then what has to be known to read them."""
    for table in (times(measured), cpu(measured), ratios(measured)):
        console.print(table)
    for note in notes(measured):
        console.print(Text(note), soft_wrap=True)


def times(measured: Measured) -> Table:
    """p50 and p99, requests a second, CPU of the servers for a request."""
    many = f"at {measured.concurrency}"
    heads = (
        "p50 ms\nat 1",
        "p99 ms\nat 1",
        f"requests/s\n{many}",
        f"p50 ms\n{many}",
        f"p99 ms\n{many}",
        f"CPU ms/request\n{many}",
    )
    table = _table("result", "subject", right=heads)
    for size in measured.sizes:
        for name in SUBJECTS:
            table.add_row(size_name(size), name, *_times(measured.of(name, size)))
    return table


def _times(turns: Sequence[Turn]) -> list[str]:
    alone = [pooled(turns, share, lambda turn: turn.alone) for share in (0.5, 0.99)]
    crowd = [pooled(turns, share, lambda turn: turn.crowd) for share in (0.5, 0.99)]
    rate, spent = (median(figure(turn) for turn in turns) for figure in (_rate, _cpu_ms))
    return [f"{alone[0]:.2f}", f"{alone[1]:.2f}", f"{rate:.0f}", f"{crowd[0]:.1f}", f"{crowd[1]:.1f}", f"{spent:.2f}"]


def _rate(turn: Turn) -> float:
    return turn.crowd.rate


def _cpu_ms(turn: Turn) -> float:
    return turn.cpu_ms_per_job


def cpu(measured: Measured) -> Table:
    """CPU of each role for a request, all rounds together: the clock of /proc counts hundredths of a second."""
    table = _table("result", "CPU ms/request", right=ROLES)
    for size in measured.sizes:
        for name in SUBJECTS:
            turns = measured.of(name, size)
            jobs = sum(turn.crowd.served for turn in turns)
            spent = [sum(turn.cpu_s.get(role, 0.0) for turn in turns) / jobs * 1e3 for role in ROLES]
            table.add_row(size_name(size), name, *(f"{ms:.2f}" if ms else "" for ms in spent))
    return table


def ratios(measured: Measured) -> Table:
    """Product to contract floor with what is asked of it, contract floor to unary floor."""
    table = _table("ratio", "result", right=("product/\ncontract", "range", "asked", "", "contract/\nunary", "range"))
    for figure in FIGURES:
        for size in measured.sizes:
            over = ratio(measured.turns, figure, size, PRODUCT, CONTRACT)
            floors = ratio(measured.turns, figure, size, CONTRACT, UNARY)
            target = target_of(figure, size)
            asked = ("", "") if target is None else (str(target), "met" if target.met(over.median) else "missed")
            table.add_row(figure.name, size_name(size), *_ratio(over), *asked, *_ratio(floors))
    return table


def _ratio(found: Ratio) -> tuple[str, str]:
    return f"{found.median:.2f}", f"{found.low:.2f}–{found.high:.2f}"


def notes(measured: Measured) -> Iterable[str]:
    """What the tables do not say."""
    yield f"{measured.rounds} rounds; ratios: their median and range. The load ran on the same {measured.cores} cores."
    padded = ", ".join(f"{ms:.2f} ms of {size_name(size)}" for size, ms in measured.checks.padded_ms.items())
    yield f"Results are small pictures, padded. Their check takes {padded};"
    yield f"that of a real PNG of {measured.checks.real_bytes / MEGA:.2f} MB takes {measured.checks.real_ms:.1f} ms."
    if measured.others > BUSY:
        yield f"note: others used {measured.others:.0%} of the machine meanwhile: the ratios are noisy; run it again."


def document(measured: Measured) -> dict[str, Any]:
    """Everything as JSON, latencies as quantiles, milliseconds."""
    return {
        "rounds": measured.rounds,
        "concurrency": measured.concurrency,
        "cores": measured.cores,
        "others": measured.others,
        "checks": {
            "padded_ms": {str(size): ms for size, ms in measured.checks.padded_ms.items()},
            "real_ms": measured.checks.real_ms,
            "real_bytes": measured.checks.real_bytes,
        },
        "turns": [_turn(turn) for turn in measured.turns],
        "ratios": [_ratios(measured, size) for size in measured.sizes],
        "missed": missed(measured),
    }


def _turn(turn: Turn) -> dict[str, Any]:
    shares = {"p50": 0.5, "p99": 0.99}
    return {
        "subject": turn.subject,
        "size": turn.size,
        "alone_ms": {name: pooled([turn], share, lambda t: t.alone) for name, share in shares.items()},
        "crowd_ms": {name: pooled([turn], share, lambda t: t.crowd) for name, share in shares.items()},
        "requests_per_s": turn.crowd.rate,
        "cpu_ms_per_request": {role: s / turn.crowd.served * 1e3 for role, s in turn.cpu_s.items()},
    }


def _ratios(measured: Measured, size: int) -> dict[str, Any]:
    def found(over: str, under: str) -> dict[str, list[float]]:
        pairs = ((figure.name, ratio(measured.turns, figure, size, over, under)) for figure in FIGURES)
        return {name: [r.median, r.low, r.high] for name, r in pairs}

    return {"size": size, "product/contract": found(PRODUCT, CONTRACT), "contract/unary": found(CONTRACT, UNARY)}


def _table(*left: str, right: Iterable[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head in left:
        table.add_column(head, no_wrap=True)
    for head in right:
        table.add_column(head, justify="right")
    return table
