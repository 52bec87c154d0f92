"""The node: what it says of itself, which tickets it takes, and the life of its attempts."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import structlog

from orchestrator.admission import Snapshot, admit
from orchestrator.attempts import Attempt, Site, SlotRunner
from orchestrator.engine import RunnerEngine, RunnerSpec
from orchestrator.estimates import Estimates
from orchestrator.node_metrics import NodeMetrics
from orchestrator.runner_client import RunnerInfo
from orchestrator.settings import ModelSettings, OrchestratorSettings
from orchestrator.slots import Slot, SlotTable
from orchestrator.spool import Spool
from orchestrator.supervisor import Supervisor, Surroundings
from reelnet.codec import TicketFrame
from reelnet.errors import NodeError, ReelnetError, RefusedError, UnsupportedError
from reelnet.identity import Identity, Signed
from reelnet.jobs import Capability, Description, Load, ModelLoad, NodeId, Ticket
from reelnet.pricing import Rates
from reelnet.rpc import PROTOCOL
from reelnet.ticket import open_ticket, sign_description

FORGET_INTERVAL_MS = 10_000
"""Expired tickets are forgotten this often: a look at each after every job would cost more with every job."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What a node is put together from; every part can be another one in a test."""

    settings: OrchestratorSettings
    identity: Identity
    engine: RunnerEngine
    slots: list[Slot]
    specs: dict[str, RunnerSpec]
    spool: Spool
    metrics: NodeMetrics
    rng: random.Random


class Node:
    """One node. `run` keeps its runners; `open` takes a ticket; the rest answers questions from memory."""

    def __init__(self, parts: NodeParts) -> None:
        settings = parts.settings
        self.settings = settings
        self.id = NodeId(parts.identity.id)
        self.epoch = secrets.token_hex(8)
        self.draining = False
        self._identity = parts.identity
        self._metrics = parts.metrics
        self._models = {model.model_id: model for model in settings.models}
        self._capabilities: dict[tuple[str, str], Capability] = {}
        self._attempts: dict[tuple[str, str, int], tuple[Attempt, asyncio.Task[None]]] = {}
        self._closed: dict[tuple[str, str, int], int] = {}
        self._forget_at_ms = 0
        self._estimates = Estimates()
        self._changed: asyncio.Event | None = None
        self._sequence = 0
        self._description = self._sign()
        self.table = SlotTable(parts.slots, {m.model_id: m.queue for m in settings.models}, time.monotonic)
        self.table.on_change = self.notify
        around = Surroundings(parts.engine, self.table, settings.limits, parts.rng, self._runner_ready)
        self.supervisors = {slot.name: Supervisor(slot, parts.specs[slot.name], around) for slot in parts.slots}
        waited = parts.metrics.waited
        self._site = Site(self.table, parts.spool, settings.limits, self._runner_of, now_ms, self._observe, waited)
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self, stopping: asyncio.Event, started: Callable[[], None]) -> None:
        """Keeps the runners until `stopping`, then drains: no new job, running ones go on for `drain_s`."""
        async with asyncio.TaskGroup() as attempts:
            self._tasks = attempts
            async with asyncio.TaskGroup() as supervision:
                keepers = [
                    supervision.create_task(s.run(), name=f"supervisor:{s.slot.name}")
                    for s in self.supervisors.values()
                ]
                started()
                await stopping.wait()
                await self._drain()
                for keeper in keepers:
                    keeper.cancel()

    def open(self, frame: TicketFrame) -> Attempt:
        """The attempt of a ticket: the one that is under way, or a new one. Raises the typed refusal."""
        try:
            return self._open(frame)
        except ReelnetError as error:
            self._metrics.refused(error)
            raise

    def _open(self, frame: TicketFrame) -> Attempt:
        ticket = open_ticket(frame.ticket)
        key = (ticket.broadcaster_id, ticket.job_id, ticket.attempt)
        if (known := self._attempts.get(key)) and known[0].payload == frame.ticket.payload:
            return known[0]
        if known:
            raise RefusedError("another ticket of this job and attempt is under way", code="attempt")
        if self._closed.get(key, 0) > now_ms():
            raise RefusedError("this attempt is closed", code="closed")
        attempt = self._admit(ticket, frame.ticket)
        assert self._tasks is not None
        task = self._tasks.create_task(self._live(key, attempt), name=f"attempt:{ticket.job_id}")
        self._attempts[key] = (attempt, task)
        return attempt

    def description(self) -> Signed:
        """The signed description as it is now."""
        return self._description

    def load(self) -> Load:
        """How full the node is now."""
        return Load(tuple(self._model_load(*key) for key in self._capabilities), self.draining)

    def probe(self, pipeline: str, model: str) -> tuple[int, float, float]:
        """Jobs in flight, age of the oldest that waits, and queue time of a new one, seconds."""
        if (pipeline, model) not in self._capabilities:
            raise UnsupportedError(f"this node does not serve {pipeline} with {model}", code="model")
        load = self._model_load(pipeline, model)
        return load.in_flight, self.table.oldest_wait_s(model), load.wait_s

    def attempts(self) -> list[Attempt]:
        """The attempts under way: queued, running, or delivered and not yet acknowledged."""
        return [attempt for attempt, _ in self._attempts.values()]

    def changed(self) -> asyncio.Event:
        """Set at the next change of description or load; take it before reading them."""
        self._changed = self._changed or asyncio.Event()
        return self._changed

    def notify(self) -> None:
        """Wakes whoever watches."""
        if self._changed:
            self._changed.set()
            self._changed = None

    def not_ready(self) -> str | None:
        """Why the node would not take a job now; None when it would."""
        if self.draining:
            return "draining"
        reasons = [f"{s.slot.name}: {s.reason or s.state}" for s in self.supervisors.values() if not s.slot.ready]
        if not any(slot.ready for slot in self.table.slots):
            return "no runner is ready: " + "; ".join(reasons) if reasons else "no models are configured"
        return None

    def _admit(self, ticket: Ticket, signed: Signed) -> Attempt:
        expected_s = self._estimates.expected_s(ticket.pipeline, ticket.model, ticket.work)
        capability = self._capabilities.get((ticket.pipeline, ticket.model))
        snapshot = Snapshot(
            node_id=self.id,
            epoch=self.epoch,
            now_ms=now_ms(),
            draining=self.draining,
            broadcasters=self.settings.broadcasters,
            capability=capability,
            wait_s=self.table.wait_s(ticket.model) if capability else 0.0,
            expected_s=expected_s,
            input_limit=self.settings.limits.input_bytes,
        )
        quote = admit(ticket, snapshot)
        reservation = self.table.reserve(ticket.model, expected_s)
        return Attempt(ticket, signed.payload, reservation, quote, self._site)

    async def _live(self, key: tuple[str, str, int], attempt: Attempt) -> None:
        """An attempt's whole life here: its run, its delivery, and the end of everything that it left."""
        try:
            await self._run(attempt)
            await asyncio.sleep(0)  # its followers first: somebody waits for the result
            outcome = attempt.failure.failure.value if attempt.failure else "done"
            self._metrics.finished(attempt.ticket, attempt.quote, attempt.failure)
            log.info("job", job=attempt.ticket.job_id, pipeline=attempt.ticket.pipeline, outcome=outcome)
            ended_at = time.monotonic()
            await attempt.delivered()
            if attempt.acknowledged.is_set():
                self._metrics.delivered(attempt.ticket, time.monotonic() - ended_at)
        finally:
            attempt.erase()
            del self._attempts[key]
            self._close(key, attempt.ticket.expires_ms)

    async def _run(self, attempt: Attempt) -> None:
        try:
            await attempt.run()
        except Exception:  # outermost: one attempt's fault in this program must not take the node down
            log.exception("an attempt failed inside the node", job=attempt.ticket.job_id)
            attempt.failure = NodeError("the node failed the job by a fault of its own", code="internal")

    def _close(self, key: tuple[str, str, int], expires_ms: int) -> None:
        """Remembers a used ticket until it expires: it is good for one attempt."""
        now = now_ms()
        if now >= self._forget_at_ms:
            self._closed = {k: until for k, until in self._closed.items() if until > now}
            self._forget_at_ms = now + FORGET_INTERVAL_MS
        self._closed[key] = expires_ms

    async def _drain(self) -> None:
        self.draining = True
        self.notify()
        log.info("draining", running=len(self._attempts), for_at_most_s=self.settings.limits.drain_s)
        if tasks := [task for _, task in self._attempts.values()]:
            await asyncio.wait(tasks, timeout=self.settings.limits.drain_s)
        self.table.close("the node is stopping")
        for attempt, _ in self._attempts.values():
            attempt.abandon()
        if tasks := [task for _, task in self._attempts.values()]:
            await asyncio.wait(tasks)

    def _runner_of(self, slot: Slot) -> SlotRunner | None:
        supervisor = self.supervisors[slot.name]
        if supervisor.client is None:
            return None
        return SlotRunner(supervisor.client, supervisor.busy, supervisor.suspect, supervisor.restart)

    def _runner_ready(self, slot: Slot, info: RunnerInfo) -> None:
        """A runner has loaded its model: what it serves becomes known, and the description a new one."""
        model = self._models[slot.model]
        before = dict(self._capabilities)
        for pipeline, schema in info.schemas.items():
            if not model.pipelines or pipeline in model.pipelines:
                self._capabilities[pipeline, slot.model] = self._capability(model, pipeline, schema, info)
        if self._capabilities != before:
            self._description = self._sign()
            self.notify()

    def _capability(self, model: ModelSettings, pipeline: str, schema: str, info: RunnerInfo) -> Capability:
        offer = model.pipelines.get(pipeline)
        return Capability(
            pipeline=pipeline,
            schema=schema,
            model=model.model_id,
            model_digest=info.digest,
            rates=offer.rates if offer else Rates(),
            licence=info.licence,
            loras=info.loras,
            slots=model.replicas,
            queue_limit=model.queue,
            memory_bytes=info.memory_bytes,
        )

    def _sign(self) -> Signed:
        self._sequence += 1
        capabilities = tuple(self._capabilities[key] for key in sorted(self._capabilities))
        description = Description(
            self.id, self.epoch, self._sequence, PROTOCOL, PROTOCOL, capabilities, f"reelnet/{version('reelnet')}"
        )
        return sign_description(self._identity, description)

    def _model_load(self, pipeline: str, model: str) -> ModelLoad:
        table = self.table
        return ModelLoad(
            pipeline=pipeline,
            model=model,
            free_slots=table.free(model),
            in_flight=len(table.running(model)),
            queued=len(table.waiting(model)),
            warm=any(slot.ready for slot in table.of(model)),
            wait_s=table.wait_s(model),
        )

    def _observe(self, ticket: Ticket, seconds: float) -> None:
        self._estimates.observe(ticket.pipeline, ticket.model, ticket.work, seconds)
        self._metrics.ran(ticket, seconds)


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
