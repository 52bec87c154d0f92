"""What is written down of a job: rows in the journal, figures in the metrics, lines in the log.

A job begins when the first node accepts it, or when an attempt fails by more than a node's "no". A request that every
node turned away is no job: it is counted as a refusal, and has no row.
"""

from __future__ import annotations

import asyncio

import structlog

from broadcaster.broadcaster_metrics import BroadcasterMetrics
from broadcaster.job import EndedAttempt, JobProgress
from broadcaster.recorder import Recorder
from broadcaster.refusal import Refusal
from broadcaster.registry import short
from reelnet.errors import FailureClass, ReelnetError
from reelnet.pricing import format_money

TURNED_AWAY = frozenset({FailureClass.BUSY, FailureClass.REFUSED, FailureClass.UNSUPPORTED})
"""How a node says that it does not take a job."""
log = structlog.get_logger()


class Books:
    """Takes note of each thing once."""

    def __init__(self, recorder: Recorder, metrics: BroadcasterMetrics) -> None:
        self._recorder = recorder
        self._metrics = metrics

    @property
    def failing(self) -> bool:
        """Whether the database refuses what is written."""
        return self._recorder.failing

    @property
    def full(self) -> bool:
        """Whether so many rows wait for a commit that no new job is taken."""
        return self._recorder.full

    def let_in(self) -> None:
        """A valid request has a place here; nodes are asked for one."""
        self._metrics.let_in()

    def refused(self, refusal: Refusal) -> None:
        """A valid request was not let in."""
        self._metrics.refused(refusal.reason)

    def attempt_began(self, job: JobProgress) -> None:
        """A node is asked."""
        self._metrics.attempt_began(job)

    def accepted(self, job: JobProgress) -> None:
        """A node takes the job. From now on it has a row; so have the attempts before."""
        if not job.begun:
            self._recorder.began(job)
            self._begin(job)

    def attempt_ended(self, job: JobProgress, error: ReelnetError | None) -> None:
        """The job's attempt delivered, or failed. One that a node turned away waits for the job to begin."""
        ended = job.ended_attempt(error)
        self._metrics.attempt_left(job)
        if not job.begun and error and error.failure in TURNED_AWAY:
            job.turned_away.append(ended)
            return
        self.accepted(job)
        self._write(job, ended)

    def cut_off(self, job: JobProgress, error: ReelnetError) -> None:
        """The job's attempt ends with the job, which is counted with it."""
        self._recorder.attempt_ended(job, job.ended_attempt(error))

    async def finished(self, job: JobProgress, error: ReelnetError | None) -> None:
        """The job is in its terminal state, which is committed on return in the journal's mode `wait`."""
        if isinstance(error, Refusal) and not job.begun:
            self._refused(job, error)
            return
        self._begin(job)
        if error:
            self._count(job, error)
        else:  # when the answer is on its way, and before the next request is read
            asyncio.get_running_loop().call_soon(self._count, job, None)
        await self._recorder.finished(job, error)

    def _begin(self, job: JobProgress) -> None:
        job.begun = True
        for ended in job.turned_away:
            self._write(job, ended)
        job.turned_away.clear()

    def _write(self, job: JobProgress, ended: EndedAttempt) -> None:
        self._recorder.attempt_ended(job, ended)
        self._metrics.attempt(job, ended)
        if error := ended.error:
            log.info("attempt failed", job=job.request.id, node=short(ended.node_id), failure=error.failure.value,
                     code=error.code, reason=error.message)  # fmt: skip

    def _refused(self, job: JobProgress, refusal: Refusal) -> None:
        request = job.request
        self._metrics.turned_away(refusal.reason)
        log.info("refused", job=request.id, pipeline=request.pipeline.name, model=request.model,
                 reason=refusal.reason.value, code=refusal.code, nodes=job.attempts)  # fmt: skip

    def _count(self, job: JobProgress, error: ReelnetError | None) -> None:
        request = job.request
        self._metrics.finished(job, error)
        log.info(
            "job",
            job=request.id,
            pipeline=request.pipeline.name,
            model=request.model,
            outcome=error.failure.value if error else "ok",
            code=error.code if error else None,
            attempts=job.attempts,
            node=short(job.node_id),
            key=request.key_id or None,
            seconds=None if job.run_s is None else round(job.run_s, 3),
            price=format_money(job.charged_nano),
        )
