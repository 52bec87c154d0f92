"""One attempt of a job on this node: its input, its run on a slot, its outputs, and whoever follows it.

An attempt lives apart from the stream that began it: a stream that breaks is no cancel, and the same ticket may come
back and go on from an output's offset. The lease on a slot covers the device's work alone: input is complete before
it, and outputs wait in the spool after it, so that a stalled broadcaster holds no device.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from pydantic_core import from_json

from orchestrator.parcel import Parcel
from orchestrator.runner_client import GONE, JobStream, RunnerClient, RunnerJob
from orchestrator.runner_events import OutputBegin, OutputEnd, RunnerDone, RunnerEvent, RunnerStarted, Tick
from orchestrator.settings import Limits
from orchestrator.shelter import sheltered
from orchestrator.slots import Reservation, Slot, SlotTable
from orchestrator.spool import Spool, SpooledFile
from orchestrator.stalls import JobKind, JobTicks, StallLimits, Stalls
from reelnet.errors import (
    CanceledError,
    DeadlineError,
    NodeError,
    OutOfMemoryError,
    ReelnetError,
    RefusedError,
    TransientError,
    UserError,
)
from reelnet.identity import Signed
from reelnet.jobs import Accepted, Chunk, Done, Event, Output, Preview, Progress, Queued, Started, Ticket
from reelnet.pipelines import Work, pipeline_of
from reelnet.rpc import CHUNK_BYTES

Tell = Callable[[list[Event]], Awaitable[None]]
"""Sends events that go together to a follower."""
LOW_PRIORITY = (Progress, Queued)
"""Events of which a slow follower needs only the last; of previews it gets the last beside them."""


@dataclass(frozen=True, slots=True)
class SlotRunner:
    """The runner behind a leased slot: its client, and what the supervisor wants to hear."""

    client: RunnerClient
    busy: Callable[[bool], None]
    suspect: Callable[[], None]
    restart: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Site:
    """The node as an attempt sees it."""

    table: SlotTable
    spool: Spool
    limits: Limits
    runner_of: Callable[[Slot], SlotRunner | None]
    now_ms: Callable[[], int]
    observe: Callable[[Ticket, Slot, float], None]
    waited: Callable[[Ticket, float, float], None]
    loading: Callable[[str], Progress | None]
    sign: Callable[[Ticket, Sequence[str], int], Signed]
    stalls: Stalls = field(default_factory=Stalls)


class Attempt:
    """The state of one accepted ticket. `run` is its life, `follow` tells it."""

    def __init__(self, ticket: Ticket, payload: bytes, reservation: Reservation, quote: int, site: Site) -> None:
        self.ticket = ticket
        self.payload = payload
        self.acknowledged = asyncio.Event()
        self.failure: ReelnetError | None = None
        self.quote = quote
        self.progress: Progress | None = None
        self._site = site
        self._reservation = reservation
        limits = site.limits
        self._inputs = [
            site.spool.open(ref.size, UserError(f"more bytes than the ticket names for {ref.name}", code="input"))
            for ref in ticket.inputs
        ]
        self._input_digests = [hashlib.sha256() for _ in ticket.inputs]
        self._input_complete = asyncio.Event()
        self._complete_at = 0.0
        self._outputs: dict[int, SpooledFile] = {}
        self._begun: OutputBegin | None = None
        self._measured = False
        """Whether the runner has found the ticket's work in the input."""
        self._output_room = limits.output_bytes
        self._milestones: list[Event] = [Accepted(reservation.position, reservation.wait_s, quote)]
        self._latest: Event | None = None
        self._preview: Preview | None = None
        self._load: Progress | None = None
        self._position = reservation.position
        self._changed = asyncio.Event()
        self._ended = False
        self._followers = 0
        self._lingering: asyncio.TimerHandle | None = None
        self._settled = asyncio.Event()
        self._scope: asyncio.Timeout | None = None
        self._canceled = False
        if not ticket.inputs:
            self._finish_input()

    @property
    def slot(self) -> Slot | None:
        """The slot that the attempt works on now."""
        place = self._reservation
        held = place.granted.done() and not place.granted.cancelled() and not place.granted.exception()
        slot = place.granted.result() if held else None
        return slot if slot and slot.holder is place else None

    @property
    def _waited_for_load(self) -> bool:
        """Whether the model of its slot was loaded while it waited."""
        slot = self.slot
        return slot is not None and slot.loaded_at > self._reservation.reserved_at

    async def run(self) -> None:
        """The attempt from accepted to its end; its failure is kept for the followers, never raised."""
        try:
            async with asyncio.timeout(self._left_s()) as self._scope:
                if self._canceled:
                    raise CanceledError("the job was canceled")
                await self._work()
        except (TimeoutError, ReelnetError) as error:
            self.failure = self.failure or self._why(error)
        finally:
            self._scope = None
            self._site.table.withdraw(self._reservation)
            self._ended = True
            self._changed.set()

    def _why(self, error: TimeoutError | ReelnetError) -> ReelnetError:
        if self._canceled:
            return CanceledError("the job was canceled")
        return (
            error if isinstance(error, ReelnetError) else DeadlineError("the deadline passed before the job was done")
        )

    async def feed(self, index: int, data: bytes) -> None:
        """The next bytes of input `index`. Raises UserError when they are not what the ticket names."""
        if index >= len(self._inputs) or self._input_complete.is_set():
            raise UserError("more input than the ticket names", code="input")
        await self._inputs[index].write(data)
        self._input_digests[index].update(data)
        if all(file.size == ref.size for file, ref in zip(self._inputs, self.ticket.inputs, strict=True)):
            self._check_digests()
            self._finish_input()

    def cancel(self) -> None:
        """Stops the attempt; the runner is told within one step."""
        self._canceled = True
        if self._scope and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    def fail(self, error: ReelnetError) -> None:
        """Stops the attempt because its stream brought something wrong."""
        self.failure = self.failure or error
        self.cancel()

    def joined(self) -> None:
        """A stream follows the attempt."""
        self._followers += 1
        if self._lingering:
            self._lingering.cancel()

    def left(self) -> None:
        """That stream is over. Without another one, the attempt goes on for the ticket's linger and then ends."""
        self._followers -= 1
        if self._followers == 0:
            linger_s = min(self.ticket.linger_s, self._site.limits.linger_max_s)
            self._lingering = asyncio.get_running_loop().call_later(linger_s, self.abandon)

    async def delivered(self) -> None:
        """After the run: returns when the outputs are acknowledged, or when nobody came for them within the linger."""
        await self._settled.wait()

    def acknowledge(self) -> None:
        """The broadcaster has kept the outputs."""
        self.acknowledged.set()
        self._settled.set()

    def abandon(self) -> None:
        """Nobody wants the attempt any more: it stops now, and nothing of it is kept for a later stream."""
        self._settled.set()
        self.cancel()

    def erase(self) -> None:
        """Removes every byte of the job from this node."""
        for file in (*self._inputs, *self._outputs.values()):
            with sheltered("a file of a job was not erased", job=self.ticket.job_id):
                file.erase()

    async def follow(self, tell: Tell, resume_from: tuple[int, int] = (0, 0)) -> None:
        """Tells the attempt's events until and with Done, those that go together in one list.

        Outputs are told from (index, offset) on. What nobody waits for is held back for a moment, to go with what
        follows; of progress and places in the queue only the newest is told. Where nothing happens for a while the
        last of these comes again: the node is still there. Raises the attempt's failure.
        """
        parcel = Parcel(self._site.limits)
        told = 0
        while True:
            for event in self._milestones[told:]:
                told += 1
                parcel.add(event, urgent=self._is_urgent(event))
                if isinstance(event, Output) and event.index >= resume_from[0]:
                    offset = resume_from[1] if event.index == resume_from[0] else 0
                    await self._tell_output(self._outputs[event.index], offset, parcel, tell)
            parcel.latest = self._news() or parcel.latest
            parcel.preview, self._preview = self._preview or parcel.preview, None
            if told < len(self._milestones):
                continue
            if self._ended or parcel.due:
                if events := parcel.take():
                    await tell(events)
                if self._ended and told == len(self._milestones):
                    break
                continue
            await self._change_within(parcel.patience_s(queued=self._reservation.started_at is None))
            parcel.beat()
        if self.failure:
            raise self.failure

    async def _tell_output(self, file: SpooledFile, offset: int, parcel: Parcel, tell: Tell) -> None:
        while piece := await file.read(offset):
            if parcel.bytes + len(piece) > CHUNK_BYTES:
                await tell(parcel.take())
            parcel.add(Chunk(piece))
            offset += len(piece)

    async def _change_within(self, limit_s: float) -> None:
        """Returns at the next change, or after `limit_s`, when each follower looks: one more look does no harm."""
        self._changed.clear()
        timer = asyncio.get_running_loop().call_later(limit_s, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            timer.cancel()

    def _is_urgent(self, event: Event) -> bool:
        """Whether the broadcaster waits for this: for Accepted only while it has input to send.

        An output is held too: the end of the job mostly follows in the same moment.
        """
        return isinstance(event, Done) or (isinstance(event, Accepted) and not self._input_complete.is_set())

    def _news(self) -> Event | None:
        """The newest progress, or the place in the queue, when it has not been told."""
        latest, self._latest = self._latest, None
        if latest is None and self._reservation.started_at is None:
            return self._waiting()
        return latest

    def _waiting(self) -> Event | None:
        """For a job that waits: how far the load of its model is, or its place in the queue, when that is new."""
        place, load = self._reservation, None
        if place.position != self._position:
            self._position = place.position
            return Queued(place.position, self._site.table.eta_s(place))
        if place.position == 0:
            load = self._site.loading(self.ticket.model)
        if load is None or load == self._load:
            return None
        self._load = load
        return load

    async def _work(self) -> None:
        if not self._input_complete.is_set():
            await self._wait_for_input()
        slot = await self._reservation.granted
        self._count_waits()
        runner = self._site.runner_of(slot)
        if runner is None:
            raise TransientError("the runner is gone", code=GONE)
        runner.busy(True)
        try:
            done = await self._run_on(runner, slot)
        except (NodeError, OutOfMemoryError) as error:
            if not (isinstance(error, OutOfMemoryError) and error.foreseen):
                runner.suspect()
            raise
        finally:
            runner.busy(False)
            self._site.table.withdraw(self._reservation)
        if done.model_digest != self.ticket.model_digest:
            raise NodeError("the runner used other weights than the ticket names", code="digest")
        queued_s = (self._reservation.started_at or 0.0) - self._reservation.reserved_at
        digests = [event.sha256 for event in self._milestones if isinstance(event, Output)]
        receipt = self._site.sign(self.ticket, digests, self.quote)
        timings_s = {"queue": queued_s, **done.timings_s}
        self._add(Done(timings_s, self.quote, done.model_digest, done.facts, receipt, done.warnings))

    async def _wait_for_input(self) -> None:
        try:
            async with asyncio.timeout(self._site.limits.input_s):
                await self._input_complete.wait()
        except TimeoutError:
            raise TransientError("the input did not arrive in time", code="input_timeout") from None

    def _count_waits(self) -> None:
        """Says how long the input took, and how long the job has waited for its slot since."""
        place, complete_at = self._reservation, self._complete_at
        self._site.waited(self.ticket, complete_at - place.reserved_at, (place.started_at or complete_at) - complete_at)

    async def _run_on(self, runner: SlotRunner, slot: Slot) -> RunnerDone:
        clock = asyncio.get_running_loop().time
        started = clock()
        ticks = self._site.stalls.watch(runner.client, job_kind(self.ticket, slot.device or ""), started)
        async with runner.client.run(self._runner_job(), runner.restart) as stream:
            heard_at = clock()
            while not stream.ended:
                idle_s = 0.0
                for event in stream.told():
                    match event:
                        case Tick():
                            idle_s = event.idle_s
                            continue
                        case Progress(stage=stage, step=step, total=total):
                            ticks.tick(stage, step, total, clock())
                            self._add(event)
                        case Chunk(data=data):
                            await self._begun_output()[1].write(data)
                        case RunnerDone():
                            self._observe(slot, clock() - started)
                            ticks.done()
                            return event
                        case _:
                            self._take(event)
                    heard_at, idle_s = clock(), 0.0
                self._check_progress(max(idle_s, clock() - heard_at), ticks, stream)
                await stream.wait()
        raise NodeError("the runner's stream ended too early", code="cut_off")

    def _observe(self, slot: Slot, seconds: float) -> None:
        """Nothing is learned from work that only the ticket claims."""
        if self._measured or not self._sized_by_input:
            self._site.observe(self.ticket, slot, seconds)

    @property
    def _sized_by_input(self) -> bool:
        """Whether the work follows from the input, which this node does not decode."""
        return pipeline_of(self.ticket.schema).sized_by_input

    def _check_progress(self, idle_s: float, ticks: JobTicks, stream: JobStream) -> None:
        """A runner's word can make a silence longer, never shorter: what it does comes as events."""
        limits = self._site.limits
        if idle_s <= limits.stall_s:
            return
        limit_s = ticks.limit_s(StallLimits(limits.stall_s, limits.stall_factor, limits.load_s))
        if idle_s > limit_s:
            reason = f"the job hung: no progress for {idle_s:.0f} s; {limit_s:.0f} s are allowed"
            stream.give_up(reason)
            raise NodeError(reason, code="hung")

    def _check_work(self, work: Work | None) -> None:
        """The runner has decoded the input: work that follows from it is what the runner finds, or the job ends."""
        if work is None or not self._sized_by_input:
            return
        if work != self.ticket.work:
            raise RefusedError("the ticket's work units are not those of its input", code="work")
        self._measured = True

    def _take(self, event: RunnerEvent) -> None:
        """An event of the runner, progress and bytes apart: outputs go to the spool, the rest to the followers."""
        match event:
            case Preview():
                self._add(event)
            case RunnerStarted(work=work):
                self._check_work(work)
                self._add(Started(cold=self._waited_for_load))
            case OutputBegin(index=index):
                over = NodeError("the outputs are larger than this node allows", code="output_size")
                self._outputs[index] = self._site.spool.open(self._output_room, over)
                self._begun = event
            case OutputEnd():
                self._finish_output(event)

    def _finish_output(self, end: OutputEnd) -> None:
        begun, file = self._begun_output()
        self._output_room -= file.size
        self._add(Output(begun.index, begun.media_type, file.size, end.sha256, begun.seed, begun.nsfw))

    def _begun_output(self) -> tuple[OutputBegin, SpooledFile]:
        if self._begun is None:
            raise NodeError("the runner sent bytes before it named their output", code="protocol")
        return self._begun, self._outputs[self._begun.index]

    def _runner_job(self) -> RunnerJob:
        t = self.ticket
        inputs = {ref.name: (file.chunks(), ref.media_type) for ref, file in zip(t.inputs, self._inputs, strict=True)}
        outputs, work = outputs_of(t), t.work if self._sized_by_input else None
        return RunnerJob(t.job_id, t.attempt, t.pipeline, t.params, self._left_s(), inputs, outputs, work)

    def _left_s(self) -> float:
        """Seconds until the ticket's deadline, and at most what a job may take here."""
        return min(self._site.limits.job_s, max(0.0, (self.ticket.deadline_ms - self._site.now_ms()) / 1000))

    def _check_digests(self) -> None:
        for digest, ref in zip(self._input_digests, self.ticket.inputs, strict=True):
            if digest.hexdigest() != ref.sha256:
                raise UserError(f"the bytes of {ref.name} are not those that the ticket names", code="input_digest")

    def _finish_input(self) -> None:
        self._complete_at = time.monotonic()
        self._input_complete.set()
        self._site.table.input_complete(self._reservation)

    def _add(self, event: Event) -> None:
        if isinstance(event, LOW_PRIORITY):
            self._latest = event
            if isinstance(event, Progress):
                self.progress = event
        elif isinstance(event, Preview):
            self._preview = event
        else:
            self._latest = self._preview = None
            self._milestones.append(event)
        self._changed.set()


def job_kind(ticket: Ticket, device: str) -> JobKind:
    """What the ticks of a ticket's job depend on."""
    params = from_json(ticket.params)
    outputs = outputs_of(ticket)
    shape = ticket.work.output_pixels, outputs, params.get("width"), params.get("height"), params.get("num_frames")
    return JobKind(device, ticket.model, ticket.pipeline, shape, ticket.work.output_pixels, outputs)


def outputs_of(ticket: Ticket) -> int:
    """How many outputs a ticket's job asks for."""
    return int(from_json(ticket.params).get("num_images_per_prompt", 1))
