"""One attempt of a job on one node: the ticket, the conversation, and the checks of what was delivered."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import structlog

from broadcaster.inspector import Inspector
from broadcaster.job import JobProgress, JobRequest, Result
from broadcaster.media import Incoming, MediaStore
from broadcaster.registry import NodeRecord, short
from broadcaster.selection import Candidate
from broadcaster.settings import Limits
from reelnet.client import AttemptStream
from reelnet.clocks import now_ms
from reelnet.errors import NodeError
from reelnet.identity import Identity
from reelnet.jobs import (
    Accepted,
    BroadcasterId,
    Chunk,
    Done,
    Event,
    JobState,
    NodeId,
    Output,
    Preview,
    Progress,
    Queued,
    Started,
    Ticket,
    run_s,
)
from reelnet.patience import Patience
from reelnet.pipelines import MediaSpec
from reelnet.pricing import price
from reelnet.ticket import check_receipt, sign_ticket
from reelnet.warnings import JobWarning

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What every attempt of a broadcaster works with."""

    identity: Identity
    media: MediaStore
    inspector: Inspector
    limits: Limits


async def run_attempt(
    context: AttemptContext,
    record: NodeRecord,
    candidate: Candidate,
    job: JobProgress,
    listener: Callable[[Event], None],
) -> None:
    """Runs the job on the node; its checked results stand in `job` afterwards. Raises the attempt's failure.

    A LocalError is no failure of the node's.

    Nothing is kept, and nothing is owed, of an attempt that fails; what is withheld is owed, and not kept.
    """
    ticket = make_ticket(context, record, candidate, job)
    inputs = [item.data for item in job.request.inputs]
    quote = price(ticket.work, ticket.rates)
    signed = sign_ticket(context.identity, ticket)
    async with (
        Delivery(context, job.request) as delivery,
        record.client.generate(signed, inputs, job.request.left_s()) as attempt,
    ):
        await _receive(attempt, delivery, job, listener, context.limits.silence_s)
        job.delivered = True
        await delivery.check(ticket)
        withheld = delivery.unsafe and job.request.params.safety == "refuse"
        results = [] if withheld else await delivery.keep()
        await attempt.acknowledge()
        # Nothing is awaited from here on: a job that ends in time is charged, and no other is.
        job.results, job.withheld, job.model_digest = results, withheld, ticket.model_digest
        job.charged_nano = job.owed_nano = quote
        job.timings_s, job.facts = delivery.timings()
        job.warnings = delivery.warnings
        job.stages_s = delivery.stages((now_ms() - job.created_ms) / 1000)


async def _receive(
    attempt: AttemptStream,
    delivery: Delivery,
    job: JobProgress,
    listener: Callable[[Event], None],
    silence_s: float,
) -> None:
    """All that the node says. It repeats its last event while nothing happens: silence means that it is not there."""
    async with Patience() as patience:
        while not delivery.complete:
            patience.within(silence_s, lambda: NodeError(f"the node said nothing for {silence_s:g} s", code="silent"))
            events = await attempt.read()
            patience.rest()
            for event in events:
                await _take(event, delivery, job, listener)


def make_ticket(context: AttemptContext, record: NodeRecord, candidate: Candidate, job: JobProgress) -> Ticket:
    """What is signed for this attempt: the complete job, for this start of this node, at its advertised rates."""
    request, capability = job.request, candidate.capability
    assert record.description is not None
    work = request.work
    quote = price(work, capability.rates)
    skew_ms = _skew_ms(record, context)
    return Ticket(
        job_id=request.id,
        attempt=job.attempts,
        broadcaster_id=BroadcasterId(context.identity.id),
        node_id=NodeId(candidate.node_id),
        node_epoch=record.description.epoch,
        pipeline=request.pipeline.name,
        schema=capability.schema,
        model=request.model,
        model_digest=capability.model_digest,
        params=request.params.model_dump_json().encode(),
        inputs=tuple(item.ref for item in request.inputs),
        work=work,
        rates=capability.rates,
        ceiling_nano=quote if request.ceiling_nano is None else request.ceiling_nano,
        deadline_ms=request.deadline_ms + skew_ms,
        expires_ms=min(request.deadline_ms, now_ms() + int(context.limits.ticket_s * 1000)) + skew_ms,
        lora_digests={name: capability.loras[name] for name in request.loras},
    )


def _skew_ms(record: NodeRecord, context: AttemptContext) -> int:
    """What makes a time of this machine one of the node's: it judges a ticket by its own clock."""
    if record.skew_s is None or abs(record.skew_s) < context.limits.skew_s:
        return 0
    return int(record.skew_s * 1000)


async def _take(event: Event, delivery: Delivery, job: JobProgress, listener: Callable[[Event], None]) -> None:
    """One event of the node; they have to come in the order of a job's life."""
    match event:
        case Accepted():
            _expect(job, JobState.QUEUED, event)
            job.to(JobState.ASSIGNED)
        case Started():
            _expect(job, JobState.ASSIGNED, event)
            delivery.started()
            job.to(JobState.RUNNING)
        case Output():
            _expect(job, JobState.RUNNING, event)
            delivery.begin(event)
        case Queued() | Progress() | Preview() if job.state is JobState.QUEUED:
            raise NodeError("the node spoke before it accepted the job", code="protocol")
        case Preview() if job.request.params.safety in ("blur", "refuse"):
            return  # nobody has looked at it
        case Chunk(data=data):
            await delivery.write(data)
        case Done():
            _expect(job, JobState.RUNNING, event)
            delivery.done(event)
    if not isinstance(event, Output | Chunk | Done):
        listener(event)


def _expect(job: JobProgress, state: JobState, event: Event) -> None:
    if job.state is not state:
        raise NodeError(f"the node said {type(event).__name__} while the job was {job.state}", code="protocol")


class Delivery:
    """What a node delivers, as it arrives: nothing of it is believed before it is checked."""

    def __init__(self, context: AttemptContext, request: JobRequest) -> None:
        self._context = context
        self._request = request
        self._arrived: list[tuple[Output, Incoming]] = []
        self._clock = time.monotonic  # uvloop's own clock counts whole milliseconds
        self._started_at: float | None = None
        self._began_at = self._clock()
        self._output_at = self._done_at = 0.0
        self._run_s = 0.0
        self._done: Done | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        for _, incoming in self._arrived:
            await incoming.close()

    @property
    def complete(self) -> bool:
        """Whether the node says that it has delivered everything."""
        return self._done is not None

    @property
    def unsafe(self) -> bool:
        """Whether the node's safety checker has found something in one of the outputs."""
        return any(output.nsfw for output, _ in self._arrived)

    def started(self) -> None:
        """The node says that a runner works on the job."""
        self._started_at = self._started_at or self._clock()

    def begin(self, output: Output) -> None:
        """The next output begins; outputs come complete and in order."""
        self._check_whole()
        self._output_at = self._clock()
        expected = len(self._arrived)
        if output.index != expected or expected >= len(self._request.promises):
            raise NodeError(f"output {output.index} came where {expected} was expected", code="count")
        limit = self._most_bytes(self._request.promises[expected])
        if output.size > limit:
            text = f"output {output.index} claims {output.size} bytes; what was asked has at most {limit}"
            raise NodeError(text, code="bytes")
        incoming = self._context.media.open(self._request.id, output.index, output.media_type, limit)
        self._arrived.append((output, incoming))

    async def write(self, data: bytes) -> None:
        """Bytes of the output that began last."""
        if not self._arrived:
            raise NodeError("bytes before any output", code="protocol")
        output, incoming = self._arrived[-1]
        if incoming.size + len(data) > output.size:
            raise NodeError(f"output {output.index} is longer than it says", code="bytes")
        await incoming.write(data)

    def done(self, done: Done) -> None:
        """The node says that it has delivered everything."""
        self._done = done
        self._done_at = self._clock()
        heard_s = self._done_at - (self._started_at or self._done_at)
        self._run_s = run_s(heard_s, done.timings_s.get("run", 0.0), self._done_at - self._began_at)

    async def check(self, ticket: Ticket) -> None:
        """The hard checks. Raises NodeError with the first that fails; soft marks go to the log for an audit."""
        self._check_whole()
        promises = self._request.promises
        if self._done is None or len(self._arrived) != len(promises):
            raise NodeError(f"{len(self._arrived)} outputs instead of {len(promises)}", code="count")
        if self._done.model_digest != ticket.model_digest:
            raise NodeError("made with other weights than the ticket names", code="digest")
        if self._request.params.safety and any(output.nsfw is None for output, _ in self._arrived):
            raise NodeError("no safety checker has looked, although the node offers one", code="unchecked")
        check_receipt(ticket, [output.sha256 for output, _ in self._arrived], self._done)
        alike = self._request.pipeline.keeps_look
        prints = [] if alike else [item.facts.fingerprint for item in self._request.inputs]
        for (output, incoming), spec in zip(self._arrived, promises, strict=True):
            limit = self._most_bytes(spec)
            facts = await self._context.inspector.output(await incoming.content(), output.media_type, spec, limit)
            marks = {"constant": facts.constant, "still": facts.still, "repeated": facts.fingerprint in prints}
            if any(marks.values()):
                log.warning("audit", job=ticket.job_id, node=short(ticket.node_id), output=output.index, **marks)
            prints.append(facts.fingerprint)

    async def keep(self) -> list[Result]:
        """Moves the checked outputs to where apps can fetch them. Seeds are ours: image i has seed + i."""
        seed = self._request.params.seed or 0
        return [Result(await incoming.commit(), seed + out.index, out.nsfw) for out, incoming in self._arrived]

    def timings(self) -> tuple[dict[str, float], dict[str, str]]:
        """Seconds by stage, the node's word but for `node_run`; and the node's word on how the job was made."""
        assert self._done is not None
        return {**self._done.timings_s, "node_run": self._run_s}, dict(self._done.facts)

    @property
    def warnings(self) -> tuple[JobWarning, ...]:
        """The warnings of the answer."""
        return self._request.warned(self._done.warnings if self._done else ())

    def stages(self, total_s: float) -> dict[str, float]:
        """Seconds by stage of the job, which took `total_s` until now: one after the other, by this clock."""
        now, output_at = self._clock(), self._output_at or self._done_at
        started_at = self._started_at or output_at
        return {
            "queue": max(0.0, total_s - (now - started_at)),
            "run": output_at - started_at,
            "transfer": self._done_at - output_at,
            "check": now - self._done_at,
        }

    def _most_bytes(self, spec: MediaSpec) -> int:
        """What an output may have: its pixels as nobody packed them, and a sound that is copied from the input."""
        sound = sum(item.ref.size for item in self._request.inputs) if spec.sound else 0
        return min(self._context.limits.output_bytes, spec.most_bytes + sound)

    def _check_whole(self) -> None:
        if self._arrived:
            output, incoming = self._arrived[-1]
            if (incoming.size, incoming.sha256) != (output.size, output.sha256):
                raise NodeError(f"output {output.index} is not what it says (size or digest)", code="digest")
