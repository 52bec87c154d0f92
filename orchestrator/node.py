"""The node: what it says of itself, which tickets it takes, and the life of its attempts."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import structlog

from orchestrator.admission import UNREACHABLE, Snapshot, Spooling, admit
from orchestrator.attempts import Attempt, Site, SlotRunner
from orchestrator.devices import Device
from orchestrator.engine import RunnerEngine
from orchestrator.estimates import Refused
from orchestrator.history import History
from orchestrator.keeper import Keeper, SpecMaker
from orchestrator.model_shelf import ModelShelf
from orchestrator.node_metrics import NodeMetrics
from orchestrator.offers import Key, Offers
from orchestrator.runner_answers import RunnerInfo
from orchestrator.settings import ModelSettings, OrchestratorSettings
from orchestrator.shelter import sheltered
from orchestrator.slots import LEAST, Slot, SlotTable
from orchestrator.spool import Spool
from orchestrator.stalls import Stalls
from orchestrator.supervisor import Supervisor, Surroundings
from orchestrator.watchers import Watchers
from reelnet.clocks import now_ms
from reelnet.codec import TicketFrame
from reelnet.errors import BusyError, NodeError, ReelnetError, RefusedError, UnsupportedError
from reelnet.estimates import Estimate, Estimates
from reelnet.identity import Identity, Signed
from reelnet.jobs import Challenge, Load, ModelLoad, NodeId, Progress, Ticket
from reelnet.pipelines import pipeline_of
from reelnet.proof import sign_proof
from reelnet.ticket import open_ticket, sign_receipt

FORGET_INTERVAL_MS = 10_000
"""Expired tickets are forgotten this often: a look at each after every job would cost more with every job."""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What a node is put together from; every part can be another one in a test."""

    settings: OrchestratorSettings
    identity: Identity
    engine: RunnerEngine
    devices: tuple[Device, ...]
    shelf: ModelShelf
    make_spec: SpecMaker
    spool: Spool
    metrics: NodeMetrics
    rng: random.Random


class Node:
    """One node. `run` keeps its runners; `open` takes a ticket; the rest answers questions from memory."""

    def __init__(self, parts: NodeParts) -> None:
        settings = parts.settings
        self.settings = settings
        self._identity = parts.identity
        self.id = NodeId(parts.identity.id)
        self.epoch = secrets.token_hex(8)
        self.drained = False
        """The operator's word: no new job until `resume`."""
        self._stopping = False
        self._metrics = parts.metrics
        self._shelf = parts.shelf
        self._attempts: dict[tuple[str, str, int], tuple[Attempt, asyncio.Task[None]]] = {}
        self._closed: dict[tuple[str, str, int], int] = {}
        self._forget_at_ms = 0
        self._estimates: Estimates[Key] = Estimates()
        self._refused = Refused()
        self._changed: asyncio.Event | None = None
        self.offers = Offers(parts.identity, self.epoch, time.monotonic, self.notify, len(parts.devices))
        self.table = SlotTable(
            [], {}, time.monotonic, lambda model: self.keeper.load_left_s(model), lambda m: self.keeper.at_once(m)
        )
        self.table.on_change = self._table_changed
        self._around = Surroundings(parts.engine, self.table, settings.limits, parts.rng, self._runner_ready)
        self.keeper = Keeper(self._around, parts.devices, parts.shelf, parts.make_spec, time.monotonic)
        self.histories: dict[str, History] = {}
        self.watchers = Watchers()
        self._spool = parts.spool
        self._stalls = Stalls()
        self._site = self._make_site()
        self._tasks: asyncio.TaskGroup | None = None
        self._serve(settings.models)

    async def run(self, stopping: asyncio.Event, started: Callable[[], None]) -> None:
        """Keeps the runners until `stopping`, then drains: no new job, running ones go on for `drain_s`."""
        async with asyncio.TaskGroup() as attempts:
            self._tasks = attempts
            async with asyncio.TaskGroup() as supervision:
                keeper = supervision.create_task(self.keeper.run(), name="keeper")
                folders = supervision.create_task(self._look_again(), name="model folders")
                started()
                await stopping.wait()
                await self._drain()
                folders.cancel()
                keeper.cancel()

    @property
    def supervisors(self) -> Mapping[str, Supervisor]:
        """Who keeps which slot's runner, by the slot's name."""
        return self.keeper.supervisors

    def apply(self, settings: OrchestratorSettings) -> None:
        """Takes over other models, rates, queues, broadcasters and limits. No job that is here is touched."""
        self.settings = settings
        self._around.limits = settings.limits
        self._site = self._make_site()
        self.offers.apply(filter(self._loads, settings.models), settings.limits.rates_grace_s)
        self._serve(settings.models)
        self.notify()

    @property
    def draining(self) -> bool:
        """Whether no new job is taken: the operator said so, or the node stops."""
        return self.drained or self._stopping

    def drain(self) -> None:
        """Takes no new job until `resume`; those that are here go on."""
        self.drained = True
        self.notify()

    def resume(self) -> None:
        """Takes jobs again, and tries again what is in quarantine. A node that stops goes on stopping."""
        self.drained = False
        self.keeper.resume()
        self.notify()

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

    async def look_at(self, models: Iterable[ModelSettings]) -> tuple[str, ...]:
        """Looks at the folders of these models; what keeps some of them from being served, a line each."""
        models = tuple(models)
        await self._shelf.look(models)
        faults = ((model.model_id, self._shelf.fault(model)) for model in models)
        return tuple(f"models: {name} cannot be served: {fault}" for name, fault in faults if fault)

    def faults(self) -> dict[str, str]:
        """What keeps each model from being loaded, as its folder was at the last look; empty where nothing does."""
        return {model.model_id: self._shelf.fault(model) for model in self.settings.models}

    def description(self) -> Signed:
        """The signed description as it is now."""
        return self.offers.description

    def prove(self, challenge: Challenge | None) -> Signed | None:
        """The answer to a challenge, where there is one. Raises RefusedError when its time is wrong."""
        return sign_proof(self._identity, challenge) if challenge else None

    def serves(self, broadcaster_id: str) -> bool:
        """Whether tickets of a broadcaster are taken at all."""
        return self.settings.broadcasters is None or broadcaster_id in self.settings.broadcasters

    def load(self) -> Load:
        """How full the node is now."""
        return Load(tuple(self._model_load(*key) for key in self.offers.by_key), self.draining)

    def probe(self, pipeline: str, model: str) -> tuple[int, float, float]:
        """Jobs in flight, age of the oldest that waits, and queue time of a new one, seconds."""
        if (pipeline, model) not in self.offers.by_key:
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
        if full := self._spooling().full:
            return full
        reasons = [f"{s.slot.name}: {s.reason or s.state}" for s in self.supervisors.values() if not s.slot.ready]
        if not any(slot.ready for slot in self.table.slots) and not self._could_load():
            return "no runner is ready: " + "; ".join(reasons) if reasons else "no models are configured"
        return None

    def _spooling(self) -> Spooling:
        return Spooling(str(self._spool.folder), self._spool.free_bytes(), self.settings.limits.spool_free_bytes)

    def _could_load(self) -> bool:
        """Whether a model on demand is offered that is only waiting for a job."""
        return any(not m.warm and any(key[1] == m.model_id for key in self.offers.by_key) for m in self.settings.models)

    def _admit(self, ticket: Ticket, signed: Signed) -> Attempt:
        key, now = (ticket.pipeline, ticket.model), time.monotonic()
        estimate = partial(self._expected, key, ticket)
        expected = estimate()
        try:
            quote = admit(ticket, self._snapshot(ticket, expected.least_s, self._refused.for_s(key, now)))
        except BusyError as error:
            if error.code == UNREACHABLE:
                self._refused.add(key, now)
            raise
        reservation = self.table.reserve(ticket.model, expected.seconds, expected.least_s, estimate)
        self._refused.clear(key)
        return Attempt(ticket, signed.payload, reservation, quote, self._site)

    def _expected(self, key: Key, ticket: Ticket) -> Estimate:
        """What a ticket's job takes. Work that its broadcaster only claims is no larger than what was seen here."""
        capability, units = self.offers.by_key.get(key), ticket.work.pixel_steps
        if capability is None or not pipeline_of(capability.schema).sized_by_input:
            return self._estimates.estimate(key, units)
        seen = self._estimates.estimate(key, min(units, self._estimates.largest(key)))
        return replace(seen, least_s=0.0)

    def _snapshot(self, ticket: Ticket, least_s: float, refused_s: float) -> Snapshot:
        """The node as a ticket finds it, for a job that takes `least_s` at the least."""
        capability, limits = self.offers.for_ticket(ticket), self.settings.limits
        return Snapshot(
            node_id=self.id,
            epoch=self.epoch,
            now_ms=now_ms(),
            draining=self.draining,
            broadcasters=self.settings.broadcasters,
            capability=capability,
            input_limit=limits.input_bytes,
            idle=capability is None or self.table.idle(ticket.model),
            wait_s=self.table.wait_s(ticket.model) if capability else 0.0,
            spool=self._spooling(),
            least_s=(self.table.wait_s(ticket.model, LEAST) if capability else 0.0) + least_s,
            refused_s=refused_s,
            retry_refused_s=limits.retry_refused_s,
        )

    async def _live(self, key: tuple[str, str, int], attempt: Attempt) -> None:
        """An attempt's whole life here: its run, its delivery, and the end of everything that it left."""
        with sheltered("an attempt could not be brought to its end", job=attempt.ticket.job_id):
            try:
                await self._run(attempt)
                await self._deliver(attempt)
            finally:
                del self._attempts[key]
                self._close(key, attempt.ticket.expires_ms)
                attempt.erase()

    async def _deliver(self, attempt: Attempt) -> None:
        await asyncio.sleep(0)  # its followers first: somebody waits for the result
        outcome = attempt.failure.failure.value if attempt.failure else "done"
        self._metrics.finished(attempt.ticket, attempt.quote, attempt.failure)
        log.info("job", job=attempt.ticket.job_id, pipeline=attempt.ticket.pipeline, outcome=outcome)
        ended_at = time.monotonic()
        await attempt.delivered()
        if attempt.acknowledged.is_set():
            self._metrics.delivered(attempt.ticket, time.monotonic() - ended_at)

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
        self._stopping = True
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
        """A runner has loaded its model: what it serves becomes known, for later starts too."""
        model = self.keeper.model_of(slot)
        self._shelf.ready(model, info)
        if model in self.settings.models:  # else it is on its way out, after a reload
            self.offers.learn(model, info)

    def _serve(self, models: Iterable[ModelSettings]) -> None:
        """Offers what is known without a load, and has the keeper see to the runners."""
        models = tuple(models)
        for model in models:
            if self._loads(model) and (info := self._shelf.facts(model).info):
                self.offers.learn(model, info)
        self.keeper.apply(models)

    def _loads(self, model: ModelSettings) -> bool:
        """Whether the model is loaded, or its folder lets it be."""
        loaded = any(slot.ready for slot in self.table.slots if slot.model == model.model_id)
        return loaded or not self._shelf.fault(model)

    async def _look_again(self) -> None:
        """Takes up models whose folders have come, or become whole; takes back the offer of who has no runner left."""
        while True:
            await asyncio.sleep(self.settings.limits.models_look_s)
            faulty = [model for model in self.settings.models if self._shelf.fault(model)]
            if faulty:
                with sheltered("the models' folders were not looked at"):
                    await self._shelf.look(faulty)
                    self.apply(self.settings)

    def _table_changed(self) -> None:
        self.notify()
        self.keeper.changed()

    def _make_site(self) -> Site:
        """What attempts are given: an attempt keeps the limits that it began with."""
        return Site(
            table=self.table,
            spool=self._spool,
            limits=self.settings.limits,
            runner_of=self._runner_of,
            now_ms=now_ms,
            observe=self._observe,
            waited=self._metrics.waited,
            loading=self._loading,
            sign=partial(sign_receipt, self._identity),
            stalls=self._stalls,
        )

    def _loading(self, model: str) -> Progress | None:
        """The load that a job waits for, in seconds: how many it has taken, of how many it is expected to take."""
        if (load := self.keeper.loading(model)) is None:
            return None
        taken_s, expected_s = load
        total = max(1, math.ceil(expected_s))
        return Progress("load", min(int(taken_s), total - 1), total)

    def _model_load(self, pipeline: str, model: str) -> ModelLoad:
        table = self.table
        return ModelLoad(
            pipeline=pipeline,
            model=model,
            free_slots=table.free(model),
            in_flight=len(table.running(model)),
            queued=len(table.waiting(model)),
            warm=table.warm(model),
            wait_s=table.wait_s(model),
        )

    def _observe(self, ticket: Ticket, slot: Slot, seconds: float) -> None:
        self.histories.setdefault(slot.name, History()).add(time.monotonic(), seconds)
        if self._estimates.observe((ticket.pipeline, ticket.model), ticket.work.pixel_steps, seconds):
            self.table.revise(ticket.model)
        self._metrics.ran(ticket, seconds)
