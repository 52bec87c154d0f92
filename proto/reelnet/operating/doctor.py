"""`doctor`: looks at a machine, check by check, and says in one line how to mend what it finds.

A check is a function of a Machine, so that every fault can be had on one that has none. Each is bounded in time, and
none stops the next one.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import typer
from rich.text import Text

from reelnet.errors import ConfigError, StartError, printable
from reelnet.lifecycle import EXIT_FAILED
from reelnet.operating.console import print_json, to_terminal
from reelnet.operating.machine import Machine

TEXT_CHARS = 600
M = TypeVar("M", bound=Machine)
N = TypeVar("N", bound=Machine, contravariant=True)


class Verdict(enum.StrEnum):
    """PASS: as it should be, or not needed here. WARN: it works, less well than it could. FAIL: a node cannot work."""

    PASS = "PASS"  # noqa: S105  (no secret)
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `fix` is one line that says what to do, empty when there is nothing to do."""

    verdict: Verdict
    text: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check(Generic[N]):
    """A named question to a machine, which may take `limit_s` seconds."""

    name: str
    find: Callable[[N], Iterable[Finding]]
    limit_s: float


@dataclass(frozen=True, slots=True)
class Line:
    """One finding of one check; `seconds` is what the whole check took."""

    check: str
    finding: Finding
    seconds: float


def good(text: str) -> Finding:
    """Nothing to do."""
    return Finding(Verdict.PASS, text)


def poor(text: str, fix: str) -> Finding:
    """It works, less well than it could."""
    return Finding(Verdict.WARN, text, fix)


def bad(text: str, fix: str) -> Finding:
    """A node cannot work like this."""
    return Finding(Verdict.FAIL, text, fix)


def config_faults(error: ConfigError, fix: str) -> list[Line]:
    """A line for each fault of a configuration."""
    return [Line("configuration", bad(fault, fix), 0.0) for fault in str(error).splitlines()]


def examine(machine: M, checks: Sequence[Check[M]], limit_s: float | None = None) -> Iterator[Line]:
    """The findings, check by check, as they come; `limit_s` bounds each check instead of its own limit."""
    for check in checks:
        started = time.monotonic()
        findings = _bounded(check, machine, limit_s or check.limit_s)
        seconds = time.monotonic() - started
        yield from (Line(check.name, finding, seconds) for finding in findings)


def healthy(lines: Iterable[Line]) -> bool:
    """Whether nothing keeps a node from working."""
    return all(line.finding.verdict is not Verdict.FAIL for line in lines)


def document(noun: str, name: str, lines: Sequence[Line]) -> dict[str, Any]:
    """The findings as JSON: docs/operate.md describes it."""
    rows = [
        {
            "check": line.check,
            "verdict": line.finding.verdict.value,
            "text": printable(line.finding.text, TEXT_CHARS),
            "fix": printable(line.finding.fix, TEXT_CHARS),
            "seconds": round(line.seconds, 3),
        }
        for line in lines
    ]
    return {noun: name, "ok": healthy(lines), "checks": rows}


def show_findings(noun: str, name: str, lines: Iterable[Line], *, as_json: bool) -> None:
    """Prints the findings as they come, and ends the command with 1 when something keeps the component from working."""
    found: list[Line] = []
    for line in lines:
        found.append(line)
        if not as_json:
            to_terminal().print(shown(line), soft_wrap=True)
    if as_json:
        print_json(document(noun, name, found))
    else:
        to_terminal().print(_summary(found))
    if not healthy(found):
        raise typer.Exit(EXIT_FAILED)


def shown(line: Line) -> Text:
    """A finding for a terminal: verdict, check, text; the fix below."""
    finding = line.finding
    colour = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}[finding.verdict]
    text = Text.assemble((finding.verdict.value, colour), "  ", (f"{line.check:<13}", "bold"), " ")
    text.append(printable(finding.text, TEXT_CHARS))
    if finding.fix:
        text.append("\n      fix: " + printable(finding.fix, TEXT_CHARS), "cyan")
    return text


def _summary(lines: Sequence[Line]) -> Text:
    counts = [f"{sum(line.finding.verdict == verdict for line in lines)} {verdict}" for verdict in Verdict]
    return Text(", ".join(counts), "bold")


def _bounded(check: Check[M], machine: M, limit_s: float) -> list[Finding]:
    """What a check found within its limit. A check that hangs is left behind: it ends with the process."""
    findings: list[Finding] = []

    def work() -> None:
        try:
            findings.extend(check.find(machine))
        except (ConfigError, StartError, OSError) as error:
            findings.append(bad(str(error), "mend what the line says, then run doctor again"))
        except Exception as error:  # noqa: BLE001  (outermost: one check must not stop the others)
            text = f"the check itself failed: {type(error).__name__}: {error}"
            findings.append(bad(text, "report this with the output of `doctor --json`"))

    thread = threading.Thread(target=work, name=f"doctor:{check.name}", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        return [
            *findings,
            bad(f"no answer within {limit_s:g} s", f"look at what it asks; or give it more: --limit {limit_s * 4:g}"),
        ]
    return findings or [bad("the check found nothing", "report this")]
