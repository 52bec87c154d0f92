"""A node, measured as a broadcaster uses it: a signed ticket over gRPC, under a key of the benchmark's own."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmark.arrival import Arrival
from benchmark.lane import Delivered, Order
from reelnet.client import AttemptStream, OrchestratorClient
from reelnet.errors import NodeError, RefusedError, StartError
from reelnet.identity import Identity
from reelnet.inspection import HEAD_BYTES, sniff
from reelnet.jobs import (
    Accepted,
    BroadcasterId,
    Capability,
    Chunk,
    Description,
    Done,
    Event,
    InputRef,
    JobId,
    Output,
    Started,
    Ticket,
    run_s,
)
from reelnet.pipelines import Size, Work, pipeline_of
from reelnet.pricing import price
from reelnet.ticket import check_receipt, sign_ticket

JOB_S = 900.0
"""Longest time of a job."""
SILENCE_S = 60.0
"""A node repeats its last event at least every 10 s while a job is there."""
TICKET_S = 60.0
UNKNOWN = "unknown_broadcaster"
"""The code with which a node refuses a key that its operator has not named."""


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """What a ticket for this node says of it. `source` is the size of the job's input."""

    description: Description
    capability: Capability
    source: Size | None


class NodeLane:
    """One node behind its gRPC address."""

    def __init__(self, client: OrchestratorClient, offer: NodeOffer, identity: Identity) -> None:
        self._client = client
        self._offer = offer
        self._identity = identity

    @property
    def name(self) -> str:
        """The node's id."""
        return self._offer.description.node_id

    async def run(self, order: Order) -> Delivered:
        """One attempt. Raises the refusal or failure, and NodeError for what no honest node says.

        Raises StartError when the node does not serve this key at all: nothing can be measured then.
        """
        ticket = self._ticket(order)
        signed = sign_ticket(self._identity, ticket)
        inputs = [data for _, data in order.spec.files.values()]
        reception = Reception(Arrival(order.paths))
        try:
            async with asyncio.timeout(JOB_S), self._client.generate(signed, inputs, JOB_S) as attempt:
                await _receive(attempt, reception)
                outputs = reception.outputs(ticket)
                await attempt.acknowledge()
        except RefusedError as error:
            raise self._unwelcome() if error.code == UNKNOWN else error from None
        except TimeoutError:
            raise NodeError(f"no end after {JOB_S:g} s", code="silent") from None
        finally:
            reception.arrival.close()
        timings_s = reception.timings_s()
        quote = price(ticket.work, ticket.rates)
        return Delivered(self.name, timings_s.pop("total"), outputs, quote, timings_s, reception.cold)

    def _unwelcome(self) -> StartError:
        where, key = self._client.address.target, self._identity.id
        return StartError(
            f"node {where} serves only broadcasters that it names: add {key} to its `broadcasters`, or sign with a key "
            "that is there: --identity FILE"
        )

    def _ticket(self, order: Order) -> Ticket:
        """What is signed: the complete job for this start of this node, at its advertised rates."""
        capability, work = self._offer.capability, self._work(order)
        now_ms = time.time_ns() // 1_000_000
        return Ticket(
            job_id=JobId(f"bench-{secrets.token_hex(8)}"),
            attempt=1,
            broadcaster_id=BroadcasterId(self._identity.id),
            node_id=self._offer.description.node_id,
            node_epoch=self._offer.description.epoch,
            pipeline=capability.pipeline,
            schema=capability.schema,
            model=capability.model,
            model_digest=capability.model_digest,
            params=order.params.model_dump_json().encode(),
            inputs=_refs(order),
            work=work,
            rates=capability.rates,
            ceiling_nano=price(work, capability.rates),
            deadline_ms=now_ms + int(JOB_S * 1000),
            expires_ms=now_ms + int(TICKET_S * 1000),
        )

    def _work(self, order: Order) -> Work:
        return pipeline_of(self._offer.capability.schema).work(order.params, self._offer.source)


def _refs(order: Order) -> tuple[InputRef, ...]:
    return tuple(
        InputRef(name, len(data), hashlib.sha256(data).hexdigest(), sniff(data[:HEAD_BYTES]) or "")
        for name, (_, data) in order.spec.files.items()
    )


async def _receive(attempt: AttemptStream, reception: Reception) -> None:
    events = aiter(attempt)
    while True:
        try:
            async with asyncio.timeout(SILENCE_S):
                event = await anext(events, None)
        except TimeoutError:
            raise NodeError(f"the node said nothing for {SILENCE_S:g} s", code="silent") from None
        if event is None:
            return
        reception.take(event)


class Reception:
    """What a node says of one job, and when it said it by this program's clock."""

    def __init__(self, arrival: Arrival, clock: Callable[[], float] = perf_counter) -> None:
        self.arrival = arrival
        self.cold = False
        self._clock = clock
        self._began = clock()
        self._at: dict[type[Event], float] = {}
        self._open: Output | None = None
        self._digests: list[str] = []
        self._done: Done | None = None

    def take(self, event: Event) -> None:
        """One event; they have to come in the order of a job's life."""
        before = {Started: Accepted, Output: Started, Done: Started}.get(type(event))
        if before and before not in self._at:
            raise NodeError(f"the node said {type(event).__name__} too early", code="protocol")
        self._at.setdefault(type(event), self._clock())
        match event:
            case Started(cold=cold):
                self.cold |= cold
            case Output():
                self._end_output()
                self._open = event
                self._digests.append(event.sha256)
                self.arrival.begin(event.index, event.media_type)
            case Chunk(data=data):
                self.arrival.write(data)
            case Done():
                self._end_output()
                self._done = event

    def outputs(self, ticket: Ticket) -> tuple[tuple[Path, str], ...]:
        """The outputs, all of them, made with the ticket's weights and signed for."""
        if self._done is None:
            raise NodeError("the node ended the stream before the job was done", code="cut_off")
        if self._done.model_digest != ticket.model_digest:
            raise NodeError("made with other weights than the ticket names", code="digest")
        check_receipt(ticket, self._digests, self._done)
        return self.arrival.whole()

    def timings_s(self) -> dict[str, float]:
        """Seconds by stage: the node's word, and this clock's `total`, `accept`, `wait` and `node_run` over it."""
        claimed = dict(self._done.timings_s) if self._done else {}
        accepted, started, done = (self._at[kind] for kind in (Accepted, Started, Done))
        total_s = done - self._began
        ran_s = run_s(done - started, claimed.get("run", 0.0), total_s)
        own = {"accept": accepted - self._began, "wait": started - accepted, "node_run": ran_s}
        return {**claimed, **own, "total": total_s}

    def _end_output(self) -> None:
        if self._open:
            self.arrival.end(self._open.size, self._open.sha256)
            self._open = None
