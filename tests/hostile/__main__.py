"""What hostile peers cost an honest app: `python -m tests.hostile [--rounds R] [--seconds S]`.

The exit code is 1 when an honest job failed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmark import overhead_cpu
from tests.hostile import report
from tests.hostile.honest import Served, jobs_for
from tests.hostile.places import Meeting, Place, meeting
from tests.hostile.report import Row, Turn


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of every kind, without and with its hostile peer")
    parser.add_argument("--seconds", type=float, default=2.5, help="of honest jobs, each time")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reelnet-") as folder:
        rows, others = asyncio.run(measure(Path(folder), asked.rounds, asked.seconds))
    console = Console(width=report.WIDTH)
    console.print(report.table(rows))
    for note in report.notes(rows, others, asked.rounds, os.cpu_count() or 1):
        console.print(note, soft_wrap=True, highlight=False)
    return 1 if any(row.failures for row in rows) else 0


async def measure(folder: Path, rounds: int, seconds: float) -> tuple[list[Row], float]:
    """The rows by kind, and the share of the machine that others used meanwhile."""
    say = Console(stderr=True, highlight=False).print
    say("starting an honest pool, a site with two runners, and hostile peers")
    async with meeting(folder) as together:
        rows = {kind: Row(kind) for kind in together.places}
        before = overhead_cpu.read(_ours(together))
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for kind, place in together.places.items():
                rows[kind].turns.append(await _turn(place, seconds, rows[kind]))
        together.check_alive()
        others = overhead_cpu.spent(before, overhead_cpu.read(_ours(together)), os.cpu_count() or 1).others
    return list(rows.values()), others


async def _turn(place: Place, seconds: float, row: Row) -> Turn:
    """Honest jobs without the hostile peer, then with it."""
    without, beside = Served(), Served()
    await jobs_for(place.url, seconds, without)
    async with place.under_attack():
        await jobs_for(place.url, seconds, beside)
        row.harm.update(await place.harm())
    return Turn(without, beside)


def _ours(together: Meeting) -> dict[str, int]:
    """Every process of the measurement, this one too."""
    found = {member.name: member.pid for member in together.pool.members}
    found |= {place.peers.log.stem: place.peers.process.pid for place in together.places.values()}
    return found


if __name__ == "__main__":
    sys.exit(main())
