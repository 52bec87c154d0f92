"""Subprocesses of a local pool: each on a leash, in a session of its own, with a log; and what is left of them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reelnet.errors import printable

TAIL_BYTES = 8192
TAIL_LINES = 12
TAIL_LINE_CHARS = 400
GONE_POLL_S = 0.02
_LEASH = "benchmark.leash"


class ProcessId(NamedTuple):
    """A process and nothing that gets its number later: pid, and its start in clock ticks since boot."""

    pid: int
    started: int


class _Entry(NamedTuple):
    id: ProcessId
    parent: int
    session: int


@dataclass(slots=True)
class Child:
    """One started program. Its session is its own: Ctrl-C on the terminal is for the parent, who stops it in order."""

    name: str
    process: Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.returncode

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it still runs."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL when it has not ended after `grace_s`."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self.process.wait()
        except TimeoutError:
            pass
        finally:
            self.send(signal.SIGKILL)
            await self.process.wait()


async def start(name: str, module: str, words: Iterable[str], log: Path, environ: Mapping[str, str]) -> Child:
    """Starts `python -m module words…` on a leash; both its outputs go to `log`, begun anew."""
    python = (sys.executable, "-P", "-m")  # -P: nothing in the current folder is imported instead
    command = (*python, _LEASH, str(os.getpid()), *python, module, *words)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=out, stderr=out, env=environ, start_new_session=True
        )
    return Child(name, process, log)


def environment(**more: object) -> dict[str, str]:
    """This environment without settings meant for other components of this user, and with those named."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REELNET_")}
    return kept | {name: str(value) for name, value in more.items()}


def tail(log: Path) -> str:
    """The last lines of a log, without control characters."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(printable(line, TAIL_LINE_CHARS) for line in lines[-TAIL_LINES:]) or "(the log is empty)"


def family(roots: Iterable[int]) -> frozenset[ProcessId]:
    """The live processes `roots`, what descends from them, and what lives in their sessions although orphaned."""
    table = _table()
    found = set(roots)
    grown = True
    while grown:
        more = {e.id.pid for e in table if (e.parent in found or e.session in found) and e.id.pid not in found}
        found |= more
        grown = bool(more)
    return frozenset(e.id for e in table if e.id.pid in found)


def alive(wanted: Iterable[ProcessId]) -> frozenset[ProcessId]:
    """Those that still run; one that ended and only waits for its parent to notice does not."""
    return frozenset(wanted) & frozenset(entry.id for entry in _table())


async def gone(wanted: Iterable[ProcessId], within_s: float) -> frozenset[ProcessId]:
    """Waits until none of them runs; those that still do after `within_s`."""
    left = alive(wanted)
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while left := alive(left):  # noqa: ASYNC110  (strangers' processes: no event tells of their end)
                await asyncio.sleep(GONE_POLL_S)
    return left


def _table() -> list[_Entry]:
    found = (_entry(name) for name in os.listdir("/proc") if name.isdecimal())
    return [entry for entry in found if entry]


def _entry(pid: str) -> _Entry | None:
    """A row from /proc/PID/stat (proc(5): state, ppid, pgrp, session, …, starttime is field 22); None for a zombie."""
    try:
        text = Path("/proc", pid, "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    if fields[0] in {"Z", "X"}:
        return None
    return _Entry(ProcessId(int(pid), int(fields[19])), int(fields[1]), int(fields[3]))
