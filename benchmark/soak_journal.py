"""A broadcaster's journal as a soak reads it: SQLite, opened for reading alone."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

JOURNAL = Path("broadcaster", "default", "journal.db")
"""Below the home of a pool."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job's row; `delivered` counts those of its attempts that went well."""

    job_id: str
    state: str
    failure: str | None
    delivered: int


def read(home: Path) -> list[Row]:
    """Every job of the journal below a pool's home. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"file:{home / JOURNAL}?mode=ro", uri=True)) as journal:
        attempts = Counter(job for (job,) in journal.execute("SELECT job_id FROM attempts WHERE outcome = 'ok'"))
        rows = journal.execute("SELECT id, state, failure_class FROM jobs").fetchall()
    return [Row(job, state, failure, attempts[job]) for job, state, failure in rows]
