"""Programs that tests call beside Python, and the Debian packages that bring them."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest

TABLE = Path(__file__).resolve().parents[1] / "scripts" / "packages.txt"


@cache
def packages() -> dict[str, list[str]]:
    """By program: the packages that `scripts/packages` installs where it is missing."""
    rows = [line.split() for line in TABLE.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {program: names for program, *names in rows}


def missing(*programs: str) -> str | None:
    """Which of them are not there, and how to get them; None when all are."""
    absent = [program for program in programs if not shutil.which(program)]
    if not absent:
        return None
    names = dict.fromkeys(name for program in absent for name in packages()[program])
    return f"no {', '.join(absent)} (Debian: apt-get install {' '.join(names)})"


def needs(*programs: str) -> None:
    """Skips the test where one of them is missing."""
    if reason := missing(*programs):
        pytest.skip(reason)
