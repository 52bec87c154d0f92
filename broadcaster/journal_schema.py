"""The journal's tables, their rows as values, and the statements that write them, for SQLite and PostgreSQL alike.

Money is nano-dollars, times are Unix milliseconds. Prompts and parameters have no column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text, Update, and_, update
from sqlalchemy.dialects import postgresql, sqlite

from reelnet.database.migrations import Schema
from reelnet.errors import MAX_MESSAGE_CHARS, FailureClass, printable
from reelnet.jobs import TERMINAL, JobState

metadata = MetaData()
jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("pipeline", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("finished_ms", BigInteger),
    Column("deadline_ms", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("node_id", Text),
    Column("failure_class", Text),
    Column("failure_code", Text),
    Column("failure_message", Text),
    Column("pixel_steps", BigInteger, nullable=False),
    Column("output_pixels", BigInteger, nullable=False),
    Column("charged_nano", BigInteger, nullable=False),
    Column("owed_nano", BigInteger, nullable=False),
    Column("key_id", Text),
    Column("run_ms", BigInteger),
    Index("jobs_by_key", "key_id", "created_ms"),
)
attempts = Table(
    "attempts",
    metadata,
    Column("job_id", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("node_id", Text, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("owed_nano", BigInteger, nullable=False),
)
JOURNAL_FILE = "journal.db"
SCHEMA = Schema("journal", metadata, Path(__file__).with_name("migrations"), first=frozenset(metadata.tables))


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as it is now: the newest row replaces the one before, until one is terminal.

    `key_id` is None without an API key; `run_ms` is what the node worked on what it delivered, None for nothing.
    """

    id: str
    pipeline: str
    model: str
    state: JobState
    created_ms: int
    updated_ms: int
    deadline_ms: int
    finished_ms: int | None = None
    attempts: int = 0
    node_id: str | None = None
    failure_class: FailureClass | None = None
    failure_code: str | None = None
    failure_message: str | None = None
    pixel_steps: int = 0
    output_pixels: int = 0
    charged_nano: int = 0
    owed_nano: int = 0
    key_id: str | None = None
    run_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRow:
    """An attempt that ended. Rows are only added; a second one of the same job and number changes nothing."""

    job_id: str
    attempt: int
    node_id: str
    started_ms: int
    ended_ms: int
    outcome: str
    owed_nano: int = 0


Row = JobRow | AttemptRow


# One comparison each: SQLAlchemy runs no statement with an expanding IN for many rows at once.
_OPEN = and_(*(jobs.c.state != state.value for state in sorted(TERMINAL)))


def fail_open_jobs(now_ms: int) -> Update:
    """Ends every job that is not terminal as a transient failure of the broadcaster."""
    return (
        update(jobs)
        .where(_OPEN)
        .values(
            state=JobState.FAILED.value,
            failure_class=FailureClass.TRANSIENT.value,
            failure_code="broadcaster_restarted",
            failure_message="the broadcaster was restarted while the job ran; send it again",
            finished_ms=now_ms,
            updated_ms=now_ms,
        )
    )


def statements(dialect: str) -> tuple[Any, Any]:
    """The upsert of jobs, which leaves terminal rows alone, and the insert of attempts; `sqlite` or `postgresql`."""
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
    job = insert(jobs)
    changed = {column.name: job.excluded[column.name] for column in jobs.c if column.name not in {"id", "created_ms"}}
    upsert = job.on_conflict_do_update(index_elements=[jobs.c.id], set_=changed, where=_OPEN)
    return upsert, insert(attempts).on_conflict_do_nothing()


def newest_jobs(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for each job: its last one, or the first that is terminal."""
    newest: dict[str, JobRow] = {}
    for row in rows:
        if isinstance(row, JobRow) and (row.id not in newest or newest[row.id].state not in TERMINAL):
            newest[row.id] = row
    return [_job_values(row) for row in newest.values()]


def attempt_values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The attempts among the rows."""
    return [_values(row, _ATTEMPT_FIELDS) for row in rows if isinstance(row, AttemptRow)]


_JOB_FIELDS, _ATTEMPT_FIELDS = (tuple(field.name for field in fields(kind)) for kind in (JobRow, AttemptRow))


def _values(row: Row, names: tuple[str, ...]) -> dict[str, Any]:
    """As `asdict`, which copies each value deeply."""
    return {name: getattr(row, name) for name in names}


def _job_values(row: JobRow) -> dict[str, Any]:
    values = _values(row, _JOB_FIELDS)
    values["state"] = row.state.value
    values["failure_class"] = row.failure_class.value if row.failure_class else None
    if row.failure_message is not None:
        values["failure_message"] = printable(row.failure_message, MAX_MESSAGE_CHARS)
    return values


def job_row(values: dict[str, Any]) -> JobRow:
    """The row that was stored as `values`."""
    failure = values.pop("failure_class")
    state = JobState(values.pop("state"))
    return JobRow(state=state, failure_class=FailureClass(failure) if failure else None, **values)
