"""The durable record of jobs and attempts: one writer thread, group commits, never a prompt or a parameter.

SQLite by default, PostgreSQL by URL, the same statements. Money is nano-dollars, times are Unix milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Self

import structlog
from sqlalchemy import Engine, delete, select
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from broadcaster.journal_schema import (
    SCHEMA,
    AttemptRow,
    JobRow,
    Row,
    attempt_values,
    attempts,
    fail_open_jobs,
    job_row,
    jobs,
    newest_jobs,
    statements,
)
from reelnet.database.opening import open_database, start_errors
from reelnet.errors import TransientError

__all__ = ["AttemptRow", "JobRow", "Journal", "Mode", "Row"]

RETRY_S = 1.0
"""Seconds after which a commit that the database refused for now is tried again."""
log = structlog.get_logger()


_PROBE = AttemptRow(job_id="", attempt=0, node_id="", started_ms=0, ended_ms=0, outcome="")


class Mode(enum.StrEnum):
    """Whether `record` answers when the row is committed, or at once."""

    WAIT = "wait"
    BEHIND = "behind"


class _Done:
    """Awaiting it takes no time."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_DONE = _Done()


class Journal:
    """The record of jobs. Enter it before the first job: what an earlier run left open is failed then.

    Entering raises StartError when the database cannot be used as it is. `recovered` is how many jobs those were.
    """

    def __init__(
        self,
        url: str,
        *,
        mode: Mode = Mode.BEHIND,
        flush_ms: int = 50,
        capacity: int = 10_000,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.recovered = 0
        self._url = url
        self._mode = mode
        self._flush_s = flush_ms / 1000
        self._capacity = capacity
        self._now_ms = now_ms
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        # Everything below is shared with the thread and changes under the condition's lock.
        self._condition = threading.Condition()
        self._pending: list[tuple[Row, asyncio.Future[None] | None]] = []
        self._urgent = False
        self._closing = False
        self._failing = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._engine, self.recovered = await asyncio.to_thread(self._open)
        self._statements = statements(self._engine.dialect.name)
        self._thread.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @property
    def failing(self) -> bool:
        """Whether the database refused the last commit; it is tried again until it succeeds."""
        return self._failing

    @property
    def backlog(self) -> int:
        """Rows that no commit has taken up yet."""
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether no new job is to be let in: `capacity` rows are pending. Rows of other jobs are always taken."""
        return len(self._pending) >= self._capacity

    def record(self, row: Row, mode: Mode | None = None) -> Awaitable[None]:
        """Takes a row without blocking. Awaiting the answer waits for the commit in mode `wait`, else for nothing.

        Rows of mode `behind` are committed together, at most every `flush_ms`; one of mode `wait` is committed at
        once, with all that is pending. Raises TransientError after `close`.
        """
        future = self._loop.create_future() if (mode or self._mode) is Mode.WAIT else None
        with self._condition:
            if self._closing:
                raise TransientError("the journal is closed", code="stopping")
            self._pending.append((row, future))
            if len(self._pending) == 1 or (future and not self._urgent):
                self._condition.notify()  # the thread waits for a first row, or for an urgent one
            self._urgent = self._urgent or future is not None
        return future or _DONE

    async def job(self, job_id: str) -> JobRow | None:
        """The committed row of a job."""
        found = await asyncio.to_thread(self._select, select(jobs).where(jobs.c.id == job_id))
        return job_row(found[0]) if found else None

    async def attempts(self, job_id: str) -> list[AttemptRow]:
        """The committed attempts of a job, in order."""
        query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.attempt)
        return [AttemptRow(**row) for row in await asyncio.to_thread(self._select, query)]

    async def close(self) -> None:
        """Commits what is pending and ends the thread. Rows that the database refuses now are lost, and logged."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._engine.dispose)

    def _open(self) -> tuple[Engine, int]:
        """The database, and how many jobs the last run left without an end: they are failed."""
        engine = open_database(self._url, SCHEMA)
        try:
            with start_errors(engine, SCHEMA), engine.begin() as connection:
                return engine, connection.execute(fail_open_jobs(self._now_ms())).rowcount
        except BaseException:
            engine.dispose()
            raise

    def _select(self, query: Any) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _run(self) -> None:
        """The writer thread: one transaction after the other, until it is closed and nothing is left."""
        next_s = 0.0
        while (batch := self._next_batch(next_s)) is not None:
            next_s = time.monotonic() + self._flush_s
            error = self._commit([row for row, _ in batch])
            futures = [future for _, future in batch if future]
            if futures:
                with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits
                    self._loop.call_soon_threadsafe(_resolve, futures, error)

    def _next_batch(self, not_before_s: float) -> list[tuple[Row, asyncio.Future[None] | None]] | None:
        """What is to be committed; nothing, to try a database that failed; None at the end."""
        with self._condition:
            if not self._condition.wait_for(
                lambda: self._pending or self._closing, timeout=RETRY_S if self._failing else None
            ):
                return []
            if self._closing and not self._pending:
                return None
            wait_s = not_before_s - time.monotonic()
            self._condition.wait_for(lambda: self._urgent or self._closing, timeout=wait_s)
            batch, self._pending, self._urgent = self._pending, [], False
            return batch

    def _commit(self, rows: Sequence[Row]) -> SQLAlchemyError | None:
        """Tries until it succeeds, the journal is closed, or trying again is no use; the error of the last two."""
        while True:
            try:
                self._write(rows)
            except SQLAlchemyError as error:
                self._failing = True
                text = str(error.__cause__ or error)[:200]
                if isinstance(error, OperationalError | InterfaceError) and not self._closes_within(RETRY_S):
                    log.warning("journal.refused", rows=len(rows), error=text)
                    continue
                log.critical("journal.rows_lost", rows=len(rows), error=text)
                return error
            self._failing = False
            return None

    def _closes_within(self, seconds: float) -> bool:
        with self._condition:
            return self._condition.wait_for(lambda: self._closing, timeout=seconds)

    def _write(self, rows: Sequence[Row]) -> None:
        """Commits rows; without any, one that is gone again in the same commit, which a full disk refuses too."""
        if not rows:
            with self._engine.begin() as connection:
                connection.execute(self._statements[1], attempt_values([_PROBE]))
                connection.execute(delete(attempts).where(attempts.c.job_id == _PROBE.job_id))
            return
        upsert_job, insert_attempt = self._statements
        newest = newest_jobs(rows)
        ended = attempt_values(rows)
        with self._engine.begin() as connection:
            if newest:
                connection.execute(upsert_job, newest)
            if ended:
                connection.execute(insert_attempt, ended)


def _resolve(futures: Sequence[asyncio.Future[None]], error: SQLAlchemyError | None) -> None:
    for future in futures:
        if future.done():  # who waited was cancelled
            continue
        if error:
            future.set_exception(TransientError("the job could not be recorded", code="journal"))
        else:
            future.set_result(None)
