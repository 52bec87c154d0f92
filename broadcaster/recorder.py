"""Writes what happens to jobs into the journal: one row a job, one an attempt."""

from __future__ import annotations

from broadcaster.job import EndedAttempt, JobProgress
from broadcaster.journal import AttemptRow, JobRow, Journal, Mode
from reelnet.clocks import now_ms
from reelnet.errors import ReelnetError
from reelnet.jobs import TERMINAL


class Recorder:
    """The journal in the gateway's words."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def failing(self) -> bool:
        """Whether the database refuses what is written."""
        return self._journal.failing

    @property
    def full(self) -> bool:
        """Whether the journal is too far behind to take another job."""
        return self._journal.full

    def began(self, job: JobProgress) -> None:
        """A node takes the job, or has failed it."""
        self._journal.record(job_row(job, None), Mode.BEHIND)

    async def finished(self, job: JobProgress, error: ReelnetError | None) -> None:
        """A job reached its terminal state; in mode `wait` this returns when that is committed."""
        await self._journal.record(job_row(job, error))

    def attempt_ended(self, job: JobProgress, ended: EndedAttempt) -> None:
        """An attempt delivered, or ended as a failure."""
        row = AttemptRow(
            job_id=job.request.id,
            attempt=ended.number,
            node_id=ended.node_id,
            started_ms=ended.started_ms,
            ended_ms=ended.ended_ms,
            outcome=ended.error.failure.value if ended.error else "ok",
            owed_nano=ended.owed_nano,
        )
        self._journal.record(row, Mode.BEHIND)


def job_row(job: JobProgress, error: ReelnetError | None) -> JobRow:
    """The job as it is now. Prompts and parameters stand in no row."""
    request, now = job.request, now_ms()
    return JobRow(
        id=request.id,
        pipeline=request.pipeline.name,
        model=request.model,
        state=job.state,
        created_ms=job.created_ms,
        updated_ms=now,
        deadline_ms=request.deadline_ms,
        finished_ms=now if job.state in TERMINAL else None,
        attempts=job.attempts,
        node_id=job.node_id or None,
        failure_class=error.failure if error else None,
        failure_code=error.code if error else None,
        failure_message=error.message if error else None,
        pixel_steps=request.work.pixel_steps,
        output_pixels=request.work.output_pixels,
        charged_nano=job.charged_nano,
        owed_nano=job.owed_nano,
        key_id=request.key_id or None,
        run_ms=None if job.run_s is None else round(job.run_s * 1000),
    )
