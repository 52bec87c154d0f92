"""The record of jobs: durable, in groups, with one terminal state for each job."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.schema import CreateTable

from broadcaster import journal_schema
from broadcaster.journal import AttemptRow, JobRow, Journal, Mode
from reelnet.database.opening import database_url
from reelnet.errors import FailureClass, StartError, TransientError
from reelnet.jobs import TERMINAL, JobState
from tests.fakes.databases import FailingDatabase, HeldDatabase

JOB = JobRow(
    id="j1",
    pipeline="text-to-image",
    model="acme/sd",
    state=JobState.QUEUED,
    created_ms=1000,
    updated_ms=1000,
    deadline_ms=601_000,
    pixel_steps=2**53,
    output_pixels=589_824,
)
DONE = dataclasses.replace(
    JOB,
    state=JobState.SUCCEEDED,
    updated_ms=2000,
    finished_ms=2000,
    attempts=1,
    node_id="n1",
    charged_nano=7,
    owed_nano=5,
    key_id="0123456789ab",
    run_ms=1500,
)
ATTEMPT = AttemptRow(job_id="j1", attempt=1, node_id="n1", started_ms=1, ended_ms=2, outcome="succeeded", owed_nano=5)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return database_url("sqlite", tmp_path / "journal.db")


def refused() -> OperationalError:
    return OperationalError("insert", {}, sqlite3.OperationalError("disk is full"))


async def test_a_committed_row_can_be_read(url: str) -> None:
    """In mode `wait` the row is there when the answer comes; every field comes back."""
    failed = dataclasses.replace(
        JOB,
        id="j2",
        state=JobState.FAILED,
        finished_ms=3,
        failure_class=FailureClass.NODE,
        failure_code="size",
        failure_message="wrong\x1b size",
    )
    async with Journal(url, mode=Mode.WAIT) as journal:
        for row in (DONE, failed, ATTEMPT):
            await journal.record(row)
        assert await journal.job("j1") == DONE
        assert await journal.job("j2") == dataclasses.replace(failed, failure_message="wrong  size")
        assert await journal.attempts("j1") == [ATTEMPT]
        assert (await journal.job("j3"), await journal.attempts("j3")) == (None, [])


async def test_behind_answers_at_once_and_close_flushes(url: str) -> None:
    """Nothing waits, and nothing is lost at a regular end."""
    async with Journal(url, flush_ms=60_000) as journal:
        for number in range(100):
            await journal.record(dataclasses.replace(DONE, id=str(number)))
    async with Journal(url) as journal:
        assert await journal.job("99") == dataclasses.replace(DONE, id="99")
        assert journal.recovered == 0


async def test_a_waiting_row_takes_the_others_along(url: str) -> None:
    """A row that somebody waits for is committed at once, together with all that came before it."""
    async with Journal(url, flush_ms=60_000) as journal:
        await journal.record(JOB, Mode.WAIT)
        await journal.record(dataclasses.replace(JOB, id="j2"))
        await journal.record(dataclasses.replace(JOB, id="j3"), Mode.WAIT)
        assert await journal.job("j2")


async def test_commits_are_in_groups(url: str) -> None:
    """What comes in during a commit is committed together, one row for each job."""
    async with Journal(url, mode=Mode.WAIT) as journal:
        database = HeldDatabase(journal)
        first = journal.record(JOB)
        await asyncio.to_thread(database.began.wait, 10)
        rest = [journal.record(dataclasses.replace(DONE, id=str(number % 50))) for number in range(200)]
        assert journal.backlog == 200
        database.go.set()
        await asyncio.gather(first, *rest)
        assert [len(batch) for batch in database.batches] == [1, 200]


async def test_behind_commits_at_most_every_flush_ms(url: str) -> None:
    """After one commit the next waits for its time."""
    async with Journal(url, flush_ms=60_000) as journal:
        database = HeldDatabase(journal)
        database.go.set()
        await journal.record(JOB)
        await asyncio.to_thread(database.began.wait, 10)
        for number in range(10):
            await journal.record(dataclasses.replace(JOB, id=str(number)))
        assert len(database.batches) == 1
    assert [len(batch) for batch in database.batches] == [1, 10]


@pytest.mark.parametrize("ended", sorted(TERMINAL))
@pytest.mark.parametrize("together", [True, False])
async def test_a_terminal_row_stays(url: str, ended: JobState, together: bool) -> None:
    """The first terminal state wins over whatever comes later, in one transaction and in two."""
    end = dataclasses.replace(DONE, state=ended)
    async with Journal(url) as journal:
        for row in (JOB, end):
            await journal.record(row)
        if not together:
            await journal.record(end, Mode.WAIT)
        await journal.record(dataclasses.replace(JOB, state=JobState.RUNNING))
        await journal.record(dataclasses.replace(DONE, state=JobState.CANCELED, charged_nano=0), Mode.WAIT)
        assert await journal.job("j1") == end


async def test_any_order_of_rows_ends_once(url: str) -> None:
    """However rows and commits fall, the stored row is the first terminal one, else the last."""
    rng = random.Random(7)
    async with Journal(url, flush_ms=0) as journal:
        for number in range(40):
            rows = [
                dataclasses.replace(JOB, id=str(number), state=rng.choice(list(JobState)), updated_ms=step)
                for step in range(rng.randint(1, 6))
            ]
            for row in rows:
                await journal.record(row, rng.choice(list(Mode)))
            await journal.record(dataclasses.replace(JOB, id="barrier"), Mode.WAIT)
            expected = next((row for row in rows if row.state in TERMINAL), rows[-1])
            assert await journal.job(str(number)) == dataclasses.replace(expected, created_ms=JOB.created_ms)


async def test_attempts_are_only_added(url: str) -> None:
    """A second row of one attempt changes nothing."""
    async with Journal(url, mode=Mode.WAIT) as journal:
        await journal.record(ATTEMPT)
        await journal.record(dataclasses.replace(ATTEMPT, owed_nano=10**9))
        await journal.record(dataclasses.replace(ATTEMPT, attempt=2, outcome="node"))
        assert [row.owed_nano for row in await journal.attempts("j1")] == [5, 5]


async def test_a_restart_ends_what_was_open(url: str) -> None:
    """Jobs of a run that died are failed, once, as the broadcaster's failure; ended ones stay as they are."""
    async with Journal(url, mode=Mode.WAIT) as journal:
        for state in JobState:
            await journal.record(dataclasses.replace(JOB, id=state, state=state))
    async with Journal(url, now_ms=lambda: 5000) as journal:
        assert journal.recovered == len(JobState) - len(TERMINAL)
        for state in JobState:
            job = await journal.job(state)
            assert job
            if state in TERMINAL:
                assert job.state is state
            else:
                assert (job.state, job.failure_class) == (JobState.FAILED, FailureClass.TRANSIENT)
                assert (job.failure_code, job.finished_ms, job.updated_ms) == ("broadcaster_restarted", 5000, 5000)
    async with Journal(url) as journal:
        assert journal.recovered == 0


async def test_a_full_journal_takes_the_rows_of_jobs_that_are_here(url: str) -> None:
    """It says that it is full, for what is not let in yet; a job under way is always recorded to its end."""
    async with Journal(url, capacity=2) as journal:
        database = HeldDatabase(journal)
        await journal.record(JOB)
        await asyncio.to_thread(database.began.wait, 10)
        for name in ("a", "b"):
            await journal.record(dataclasses.replace(JOB, id=name))
            assert journal.full == (name == "b")
        ended = [journal.record(row, Mode.WAIT) for row in (DONE, ATTEMPT)]
        database.go.set()
        await asyncio.gather(*ended)
        assert await journal.job("j1") == DONE
        assert not journal.full


async def test_a_database_that_recovers_loses_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk or a lock is tried again until it is over, and is visible meanwhile."""
    monkeypatch.setattr("broadcaster.journal.RETRY_S", 0.001)
    async with Journal(url, mode=Mode.WAIT) as journal:
        database = FailingDatabase(journal, 3, refused())
        await journal.record(DONE)
        assert (database.transactions, journal.failing) == (4, False)
        assert await journal.job("j1") == DONE


async def test_rows_that_can_never_be_written_fail_who_waits(url: str) -> None:
    """An error that no retry mends is told, and the journal goes on with the next rows."""
    async with Journal(url, mode=Mode.WAIT) as journal:
        FailingDatabase(journal, 1, ProgrammingError("insert", {}, sqlite3.ProgrammingError("no such column")))
        with pytest.raises(TransientError) as error:
            await journal.record(JOB)
        assert error.value.code == "journal"
        await journal.record(DONE)
        assert await journal.job("j1") == DONE


async def test_closing_does_not_hang_on_a_dead_database(url: str) -> None:
    """What cannot be written at the end is told to who waits, and the journal closes."""
    journal = Journal(url, mode=Mode.WAIT)
    async with journal:
        FailingDatabase(journal, 10**6, refused())
        waiting = journal.record(JOB)
    with pytest.raises(TransientError):
        await waiting
    assert journal.failing
    with pytest.raises(TransientError, match="closed"):
        journal.record(JOB)


async def test_who_stops_waiting_harms_nobody(url: str) -> None:
    """A cancelled wait leaves its row, and the others' answers, alone."""
    async with Journal(url, mode=Mode.WAIT) as journal:
        database = HeldDatabase(journal)
        waits = [asyncio.ensure_future(journal.record(dataclasses.replace(DONE, id=name))) for name in "ab"]
        await asyncio.to_thread(database.began.wait, 10)
        waits[0].cancel()
        database.go.set()
        await waits[1]
        assert await journal.job("a")


async def test_the_thread_ends_with_the_journal(url: str) -> None:
    """Nothing is left running."""
    async with Journal(url):
        assert "journal" in {thread.name for thread in threading.enumerate()}
    assert "journal" not in {thread.name for thread in threading.enumerate()}


async def test_sqlite_is_safe_and_shared(url: str, tmp_path: Path) -> None:
    """Write-ahead log on, every commit on the disk; a reader beside it sees committed rows."""
    async with Journal(url, mode=Mode.WAIT) as journal:
        await journal.record(DONE)
        with sqlite3.connect(tmp_path / "journal.db") as reader:
            assert reader.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert reader.execute("SELECT state, owed_nano FROM jobs").fetchall() == [("succeeded", 5)]
        reader.close()
        with journal._engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2


async def test_what_a_key_has_used_is_found_by_an_index(url: str, tmp_path: Path) -> None:
    """A bill for a month reads the rows of its key alone."""
    query = "SELECT sum(run_ms), sum(charged_nano) FROM jobs WHERE key_id = '0123456789ab' AND created_ms >= 0"
    async with Journal(url, mode=Mode.WAIT) as journal:
        for row in (DONE, dataclasses.replace(DONE, id="j2"), dataclasses.replace(DONE, id="j3", key_id="x")):
            await journal.record(row)
        found = await asyncio.to_thread(journal._select, text(query))
        (plan,) = await asyncio.to_thread(journal._select, text(f"EXPLAIN QUERY PLAN {query}"))
    assert list(found[0].values()) == [3000, 14]
    assert "USING INDEX jobs_by_key" in plan["detail"]


def test_no_column_could_hold_a_prompt() -> None:
    """What a job asked for is never stored."""
    columns = {column.name for table in journal_schema.metadata.tables.values() for column in table.c}
    assert not columns & {"prompt", "negative_prompt", "params", "input", "seed"}


def test_postgresql_takes_the_same_statements() -> None:
    """The guard and the upsert exist there too."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    upsert, insert = (str(statement.compile(dialect=dialect)) for statement in journal_schema.statements("postgresql"))
    assert "ON CONFLICT (id) DO UPDATE SET" in upsert
    assert "WHERE jobs.state != " in upsert
    assert insert.endswith("ON CONFLICT DO NOTHING")
    assert "created_ms BIGINT NOT NULL" in str(CreateTable(journal_schema.jobs).compile(dialect=dialect))


def version_1(path: Path, *extra: str) -> None:
    """A journal as the program wrote it before schemas had a version, with one job that ended and one that did not."""
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.executescript("PRAGMA journal_mode=WAL;" + VERSION_1 + ";".join(extra))
        file.commit()


VERSION_1 = """
CREATE TABLE jobs (
    id TEXT NOT NULL, pipeline TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL, created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL, finished_ms BIGINT, deadline_ms BIGINT NOT NULL, attempts INTEGER NOT NULL,
    node_id TEXT, failure_class TEXT, failure_code TEXT, failure_message TEXT, pixel_steps BIGINT NOT NULL,
    output_pixels BIGINT NOT NULL, charged_nano BIGINT NOT NULL, owed_nano BIGINT NOT NULL, PRIMARY KEY (id));
CREATE TABLE attempts (
    job_id TEXT NOT NULL, attempt INTEGER NOT NULL, node_id TEXT NOT NULL, started_ms BIGINT NOT NULL,
    ended_ms BIGINT NOT NULL, outcome TEXT NOT NULL, owed_nano BIGINT NOT NULL, PRIMARY KEY (job_id, attempt));
INSERT INTO jobs VALUES ('j1', 'text-to-image', 'acme/sd', 'succeeded', 1000, 2000, 2000, 601000, 1, 'n1',
    NULL, NULL, NULL, 9007199254740992, 589824, 7, 5);
INSERT INTO jobs VALUES ('j2', 'text-to-image', 'acme/sd', 'running', 1000, 1000, NULL, 601000, 1, 'n1',
    NULL, NULL, NULL, 9007199254740992, 589824, 0, 0);
INSERT INTO attempts VALUES ('j1', 1, 'n1', 1, 2, 'succeeded', 5);
"""


async def test_a_journal_without_a_version_is_gone_on_with(url: str, tmp_path: Path) -> None:
    """Every row that was there is there, what was open is failed, new rows come beside them, and no copy is lost."""
    version_1(tmp_path / "journal.db")
    async with Journal(url, mode=Mode.WAIT, now_ms=lambda: 5000) as journal:
        assert await journal.job("j1") == dataclasses.replace(DONE, key_id=None, run_ms=None)
        assert await journal.attempts("j1") == [ATTEMPT]
        assert journal.recovered == 1
        await journal.record(dataclasses.replace(DONE, id="j3"))
    async with Journal(url) as journal:
        assert await journal.job("j3") == dataclasses.replace(DONE, id="j3")
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db.v1")) as copy:
        assert copy.execute("SELECT id, state FROM jobs ORDER BY id").fetchall() == [
            ("j1", "succeeded"), ("j2", "running")
        ]  # fmt: skip


@pytest.mark.parametrize("damage", ["garbage", "a page of garbage"])
async def test_a_damaged_file_starts_no_journal(url: str, tmp_path: Path, damage: str) -> None:
    """It holds amounts of money: it is left as it is, and a person is told what to do with it."""
    path = tmp_path / "journal.db"
    async with Journal(url, mode=Mode.WAIT) as journal:
        await journal.record(DONE)
        await journal.record(ATTEMPT)
    whole = path.read_bytes()
    path.write_bytes(b"garbage" * 1000 if damage == "garbage" else whole[:4096] + b"\xaa" * (len(whole) - 4096))
    damaged = path.read_bytes()
    with pytest.raises(StartError, match=f"journal: {path} is .*; restore your copy of it, or move it away"):
        async with Journal(url):
            raise AssertionError("it started")
    assert path.read_bytes() == damaged


async def test_a_missing_column_loses_no_row(url: str, tmp_path: Path) -> None:
    """Where rows could not be written the journal does not start."""
    version_1(tmp_path / "journal.db", "ALTER TABLE jobs DROP COLUMN owed_nano")
    with pytest.raises(StartError, match="table jobs has no column owed_nano"):
        async with Journal(url):
            raise AssertionError("it started")


async def test_a_database_that_lost_rows_is_tried_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no job is let in no row comes: a row of its own finds out when the database is back, and is gone again."""
    monkeypatch.setattr("broadcaster.journal.RETRY_S", 0.001)
    async with Journal(url, mode=Mode.WAIT) as journal:
        FailingDatabase(journal, 2, ProgrammingError("insert", {}, sqlite3.ProgrammingError("no such column")))
        with pytest.raises(TransientError):
            await journal.record(JOB)
        while journal.failing:
            await asyncio.sleep(0.001)
        assert await journal.attempts("") == []
