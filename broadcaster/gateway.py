"""Runs a job on the pool: choose, call, fail over until the deadline, check what comes back.

The call is the reservation: its first event is `Accepted`, or it fails with a typed reason and the next node is tried.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from broadcaster.attempt import AttemptContext, run_attempt
from broadcaster.books import TURNED_AWAY, Books
from broadcaster.broadcaster_metrics import BroadcasterMetrics
from broadcaster.disk import Disks
from broadcaster.failover import UNSAFE, Failover, Verdict
from broadcaster.inspector import Inspector
from broadcaster.job import JobProgress, JobRequest
from broadcaster.local_failure import RETRY_AFTER_S, LocalError
from broadcaster.media import MediaStore
from broadcaster.pool_view import why_nobody_serves
from broadcaster.previews import PreviewGate
from broadcaster.recorder import Recorder
from broadcaster.refusal import Reason, Refusal
from broadcaster.registry import Registry
from broadcaster.scores import Scores
from broadcaster.selection import Candidate, Wanted, choose
from broadcaster.settings import BroadcasterSettings
from reelnet.errors import (
    CanceledError,
    DeadlineError,
    FailureClass,
    NodeError,
    ReelnetError,
    RefusedError,
    TransientError,
)
from reelnet.identity import Identity
from reelnet.jobs import Accepted, Event, JobState

DEFAULT_RETRY_AFTER_S = 5.0
UNKNOWN_BROADCASTER = "unknown_broadcaster"
"""With this code a node refuses every ticket of a broadcaster that its operator does not serve."""
DRAINING_RETRY_AFTER_S = 30.0
JOBS_RETRY_AFTER_S = 10.0
JOURNAL_RETRY_AFTER_S = 1.0
SHORTEST_PAUSE_S = 1.0
"""A node that is full is asked again after this long at the earliest, whatever it says."""
LOST_PAUSE_S = 0.2
"""Before a node whose connection was lost is tried again, its watch has this long to notice."""
log = structlog.get_logger()
Listener = Callable[[Event], None]
_END_STATE = {
    FailureClass.CANCELED: JobState.CANCELED,
    FailureClass.DEADLINE: JobState.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class GatewayParts:
    """What a gateway is put together from."""

    settings: BroadcasterSettings
    identity: Identity
    registry: Registry
    scores: Scores
    media: MediaStore
    disks: Disks
    inspector: Inspector
    recorder: Recorder
    metrics: BroadcasterMetrics
    rng: random.Random


class Gateway:
    """Takes validated jobs and brings each to exactly one terminal state."""

    def __init__(self, parts: GatewayParts) -> None:
        self._p = parts
        self._settings = parts.settings
        self._books = Books(parts.recorder, parts.metrics)
        self._attempts = self._context()
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False
        """Whether no new job is taken."""
        self._stopping = False

    async def run(self, request: JobRequest, listener: Listener = lambda event: None) -> JobProgress:
        """The finished job. Raises the failure that it ended with; canceling this call cancels the job."""
        self._let_in()
        job = JobProgress(request)
        self._running += 1
        self._idle.clear()
        try:
            return await self._to_the_end(job, self._listening(job, listener))
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    @property
    def running(self) -> int:
        """Jobs that were let in and have not ended."""
        return self._running

    def apply(self, settings: BroadcasterSettings) -> None:
        """Goes by other limits, ceilings and digests from now on. Jobs that run keep what they began with."""
        self._settings = settings
        self._attempts = self._context()

    def resume(self) -> None:
        """Takes jobs again. A broadcaster that stops goes on stopping."""
        self.draining = self._stopping

    def _listening(self, job: JobProgress, listener: Listener) -> Listener:
        """Who hears a job's events: the books that a node takes it, then the app."""
        gate = PreviewGate(job.request, listener, self._settings.limits.preview_s, self._p.metrics.previewed)

        def hear(event: Event) -> None:
            if isinstance(event, Accepted):
                self._books.accepted(job)
            gate(event)

        return hear

    async def stop(self, limit_s: float) -> None:
        """Takes no more jobs; returns when the running ones are done, or after `limit_s`."""
        self.draining = self._stopping = True
        try:
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("jobs were cut off", running=self._running)

    def not_ready(self) -> str | None:
        """Why no job would be taken now, or no node would do one; None when all is well."""
        if refusal := self._refusal():
            return refusal.message
        return why_nobody_serves(self._p.registry, self._settings.catalogue)

    def _context(self) -> AttemptContext:
        return AttemptContext(self._p.identity, self._p.media, self._p.inspector, self._settings.limits)

    def _refusal(self) -> Refusal | None:
        """Why no job is taken, whatever it asks for: nothing of it could be kept, or this broadcaster stops."""
        if self.draining:
            return Refusal("the broadcaster drains and takes no new job", Reason.DRAINING, DRAINING_RETRY_AFTER_S)
        if self._books.failing:
            text = "the journal cannot be written: see to the database, or free space where `home` is, or move it"
            return Refusal(text, Reason.JOURNAL, RETRY_AFTER_S)
        if self._p.media.failing:
            return Refusal(self._p.media.why_failing, Reason.MEDIA, RETRY_AFTER_S)
        if full := self._p.disks.why_full():
            return Refusal(full, Reason.DISK_FULL, RETRY_AFTER_S)
        return None

    def _no_room(self) -> Refusal | None:
        """Why one more job is too many."""
        if self._running >= self._settings.limits.jobs:
            return Refusal("the broadcaster has all the jobs it may have", Reason.JOBS, JOBS_RETRY_AFTER_S)
        if self._books.full:
            return Refusal("the journal is behind; try again later", Reason.JOURNAL_FULL, JOURNAL_RETRY_AFTER_S)
        return None

    def _let_in(self) -> None:
        """Raises Refusal when a request has no place here."""
        if refusal := self._refusal() or self._no_room():
            self._books.refused(refusal)
            raise refusal
        self._books.let_in()

    async def _to_the_end(self, job: JobProgress, listener: Listener) -> JobProgress:
        error: ReelnetError | None = None
        try:
            async with asyncio.timeout(job.request.left_s()):
                await self._fail_over(job, listener)
        except TimeoutError:
            error = DeadlineError("the job was not done by its deadline")
            self._missed_deadline(job, error)
        except ReelnetError as failure:
            error = failure
        except asyncio.CancelledError:
            await self._finish(job, CanceledError("the client left"))
            raise
        except Exception:  # outermost: a fault of this program ends its job like any other failure
            log.exception("a job failed inside the broadcaster", job=job.request.id)
            error = NodeError("the broadcaster failed the job by a fault of its own", code="internal")
        await self._finish(job, error)
        if error:
            raise error
        return job

    def _missed_deadline(self, job: JobProgress, error: DeadlineError) -> None:
        """A node that took a job says by this that it can be done in time: it is blamed when it did not deliver."""
        if job.state is JobState.QUEUED:
            return
        if not job.delivered:
            self._p.scores.failed(job.node_id, FailureClass.NODE)
        self._books.cut_off(job, error)

    async def _finish(self, job: JobProgress, error: ReelnetError | None) -> None:
        if error:
            job.to(_END_STATE.get(error.failure, JobState.FAILED))
        await self._books.finished(job, error)

    async def _fail_over(self, job: JobProgress, listener: Listener) -> None:
        failover = Failover(self._settings.limits.attempts, job.request.unadvertised)
        while True:
            candidate = await self._next(job.request, failover)
            record = self._p.registry.record(candidate.node_id)
            job.begin_attempt(candidate.node_id)
            self._books.attempt_began(job)
            try:
                with self._p.registry.in_flight(record):
                    await run_attempt(self._attempts, record, candidate, job, listener)
            except LocalError as error:
                self._books.attempt_ended(job, error)
                raise
            except ReelnetError as error:
                if not self._goes_on(job, failover, candidate, error):
                    raise failover.last_word or error from None
            else:
                self._delivered(job, failover, candidate)
                return

    def _goes_on(self, job: JobProgress, failover: Failover, candidate: Candidate, error: ReelnetError) -> bool:
        """Takes note of a failed attempt; whether another node is to be tried."""
        if error.failure is FailureClass.CANCELED or (error.failure is FailureClass.DEADLINE and job.request.left_s()):
            error = NodeError(f"the node gave the job up: {error.message}", code=error.code)
        verdict = failover.judge(candidate.node_id, error, candidate.capability.memory_bytes)
        if error.failure is FailureClass.BUSY:
            self._p.registry.refused_as_busy(candidate.node_id, (job.request.pipeline.name, job.request.model))
        if error.code == UNKNOWN_BROADCASTER:
            self._p.registry.refused_us(candidate.node_id)
        if blame := failover.blame_now(candidate.node_id, error):
            self._p.scores.failed(blame.node_id, blame.failure)
        self._books.attempt_ended(job, error)
        if verdict is Verdict.END:
            return False
        job.to(JobState.QUEUED)
        return True

    def _delivered(self, job: JobProgress, failover: Failover, candidate: Candidate) -> None:
        """Takes note of an attempt that went well. Raises RefusedError when the app may not have what it gave."""
        request = job.request
        for blame in failover.blame_on_success(candidate.node_id):
            self._p.scores.failed(blame.node_id, blame.failure)
        self._p.scores.succeeded(candidate.node_id)
        self._books.attempt_ended(job, None)
        self._p.scores.took(candidate.node_id, request.pipeline.name, request.model, request.work, job.run_s or 0.0)
        if job.withheld:
            message = "a safety checker found the result unsafe, and it is withheld; change prompt or seed"
            raise RefusedError(message, code=UNSAFE)
        job.to(JobState.SUCCEEDED)

    async def _next(self, request: JobRequest, failover: Failover) -> Candidate:
        """The next node to try. Raises the failure that the job ends with when there is none."""
        changed = self._p.registry.changed()
        if candidate := self._pick(request, failover):
            return candidate
        if failover.forgive_died() and (candidate := self._pick(request, failover)):
            return candidate
        if candidate := await self._freed(request, failover):
            return candidate
        if failover.forgive_lost():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.limits.reconnect_wait_s):
                    return await self._reconnected(request, failover, changed)
        raise self._nobody(request, failover)

    async def _freed(self, request: JobRequest, failover: Failover) -> Candidate | None:
        """A full node, when it expects a place; None when the job does not wait for one, or has no time for that."""
        pause_s = max(SHORTEST_PAUSE_S, failover.retry_after_s or DEFAULT_RETRY_AFTER_S)
        if not failover.forgive_full() or pause_s >= request.left_s():
            return None
        await asyncio.sleep(pause_s)
        return self._pick(request, failover)

    async def _reconnected(self, request: JobRequest, failover: Failover, changed: asyncio.Event) -> Candidate:
        """The first node that can take the job once the pool has changed, or the lost one if it is still there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOST_PAUSE_S):
                await changed.wait()
        while True:
            changed = self._p.registry.changed()
            if candidate := self._pick(request, failover):
                return candidate
            await changed.wait()

    def _pick(self, request: JobRequest, failover: Failover) -> Candidate | None:
        s = self._settings.selection
        pipeline = request.pipeline
        offer = (pipeline.name, request.model)
        wanted = Wanted(
            work=request.work,
            schema_family=f"{pipeline.name}/{pipeline.family}",
            schema_version=request.params.required_version(),
            ceiling_nano=request.ceiling_nano,
            digests=request.digests,
            min_memory_bytes=failover.min_memory_bytes,
            features=request.params.required_features(),
            loras=tuple((name, self._settings.digests(name)) for name in request.loras),
        )
        candidates = self._p.registry.candidates(offer, wanted, s.sample, frozenset(failover.excluded))
        return choose(
            candidates, wanted, self._p.rng, exploration=s.exploration, seconds_per_dollar=s.seconds_per_dollar
        )

    def _nobody(self, request: JobRequest, failover: Failover) -> ReelnetError:
        """Why the job ends when no node is left: the last node's word, or that nobody is there."""
        last = failover.last
        if last is None:
            return Refusal(
                f"no node that serves {request.pipeline.name} with {request.model} takes this job now "
                "(none is up, none within the price limit, or none with an allowed digest)",
                Reason.NO_NODE,
                DEFAULT_RETRY_AFTER_S,
            )
        if failover.claim(last):
            return last
        if last.failure in TURNED_AWAY:
            reason = Reason.FULL if last.failure is FailureClass.BUSY else Reason.REFUSED
            wait_s = failover.retry_after_s or DEFAULT_RETRY_AFTER_S
            return Refusal(f"every node is full or refused: {last.message}", reason, wait_s, last.code)
        if isinstance(last, TransientError):
            return TransientError(
                "the connection to the last node was lost", code=last.code, retry_after_s=DEFAULT_RETRY_AFTER_S
            )
        return last
