"""The keeper: which runner is on which device, from the start to the end of a node.

It adopts what an earlier start left, puts warm models where they fit, lets models on demand come and go as jobs ask
for them, and keeps away from a device, or from a slot, that failed too often. What it decides with is pure
(`placement.py`); what it decides about are supervisors.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from orchestrator.devices import Device
from orchestrator.engine import EngineError, RunnerHandle, RunnerSpec
from orchestrator.model_facts import need_bytes
from orchestrator.model_shelf import ModelShelf
from orchestrator.placement import Homeless, Plan, Resident, Room, plan
from orchestrator.quarantine import Quarantine
from orchestrator.runner_state import RunnerState
from orchestrator.settings import ModelSettings
from orchestrator.shelter import sheltered
from orchestrator.slots import Slot, SlotTable, slot_name
from orchestrator.supervisor import End, Ended, Post, Supervisor, Surroundings
from reelnet.errors import NodeError, ReelnetError, StartError, TransientError

ROUND_S = 1.0
"""Without news, placement looks again after this long: a minimum stay may be over."""
JUST_NOW_S = 1e-6
KERNELS = (End.KILLED, End.MEMORY)
"""Ends that are the kernel's doing: too many of them lead to a slot's quarantine; a device's count for the device."""
SpecMaker = Callable[[ModelSettings, str, Device], RunnerSpec]
log = structlog.get_logger()


@dataclass(slots=True)
class Ward:
    """A slot in the keeper's care. Times are the clock's.

    `taken`: its runner has been taken from its device, and is not gone yet. `told`: why it waits for one.
    """

    slot: Slot
    model: ModelSettings
    supervisor: Supervisor
    task: asyncio.Task[None] | None = None
    put_at: float = 0.0
    wanted: bool = True
    taken: bool = False
    told: str = ""
    quarantine: Quarantine = field(default_factory=Quarantine)


@dataclass(slots=True)
class Berth:
    """A device, and why it is kept away from, if it is."""

    device: Device
    problem: str = ""
    quarantine: Quarantine = field(default_factory=Quarantine)


class Keeper:
    """All runners of a node. `run` keeps them; everything else is told to it.

    `restarts` counts them by (model, reason), `cold_starts` the loads by model, also those of slots that are no more.
    """

    def __init__(
        self, around: Surroundings, devices: Iterable[Device], shelf: ModelShelf, make_spec: SpecMaker,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.supervisors: dict[str, Supervisor] = {}
        self.restarts: Counter[tuple[str, End]] = Counter()
        self.cold_starts: Counter[str] = Counter()
        self.berths = {device.name: Berth(device) for device in devices}
        self._around = around
        self._shelf = shelf
        self._make_spec = make_spec
        self._clock = clock
        self._wards: dict[str, Ward] = {}
        self._orphans: dict[str, RunnerHandle] = {}
        self._news = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._attentive = True
        around.on_end = self._ended
        around.on_gone = self._gone
        around.on_load = self._loaded
        around.on_memory = self._measured

    @property
    def table(self) -> SlotTable:
        """The slots."""
        return self._around.table

    def changed(self) -> None:
        """A slot or the queue changed: that matters while a runner waits for a device, or is to leave one."""
        if self._attentive:
            self._news.set()

    def apply(self, models: Iterable[ModelSettings]) -> None:
        """Takes over what is to be served. Slots of the same name stay as they are, unless their runner would differ.

        A slot that is no more gets no further job; its runner ends with the one that it has. Jobs that wait for a
        model that is no more fail as transient: another node may have it.
        """
        wanted = {slot_name(m.model_id, i): m for m in models for i in range(m.replicas)}
        for name, ward in self._wards.items():
            ward.wanted = name in wanted
            ward.slot.leaving = ward.slot.leaving or not ward.wanted
        for name, model in wanted.items():
            if name in self._wards:
                self._change(self._wards[name], model)
            else:
                self._add(name, model)
        kept = {m.model_id: m.queue for m in wanted.values()}
        for gone in {ward.slot.model for ward in self._wards.values()} - kept.keys():
            self.table.fail_waiting(TransientError(f"{gone} is not served here any more", code="model_gone"), gone)
        self.table.configure(kept)
        self.wake()

    def wake(self) -> None:
        """Something changed that placement may have waited for."""
        self._news.set()

    async def run(self) -> None:
        """Adopts, then keeps, until this task is canceled; every runner has ended then."""
        async with asyncio.TaskGroup() as self._tasks:
            await self._adopt()
            for ward in self._wards.values():
                self._start(ward)
            while True:
                self._news.clear()
                self._round()
                with suppress(TimeoutError):
                    async with asyncio.timeout(ROUND_S if self._attentive else None):
                        await self._news.wait()

    def fault(self, uuid: str, reason: str, *, fatal: bool) -> None:
        """A device reports a fault: its runners start anew; after a fatal one, or too many, they stay away from it."""
        for berth in (b for b in self.berths.values() if b.device.uuid == uuid):
            log.error("device fault", device=berth.device.name, uuid=uuid, reason=reason, fatal=fatal)
            if fatal or berth.quarantine.too_many(self._clock(), self._around.limits):
                self._shut(berth, reason)
            else:
                for ward in self._on(berth):
                    ward.supervisor.restart(f"{berth.device.name}: {reason}", End.DEVICE)

    def back(self, uuid: str) -> None:
        """A device that was lost answers again."""
        for berth in self.berths.values():
            if berth.device.uuid == uuid and berth.problem:
                self._open(berth)

    def resume(self) -> None:
        """The operator's word: whatever is in quarantine is tried again, and pauses end."""
        for berth in self.berths.values():
            self._open(berth)
        for ward in self._wards.values():
            ward.quarantine.end()
        self.wake()

    def at_once(self, model_id: str) -> int:
        """How many jobs of a model run at once here."""
        return model.at_once(len(self.berths)) if (model := self._model(model_id)) else 0

    def load_s(self, model_id: str) -> float:
        """How long a load of the model takes, seconds, as estimated."""
        model = self._model(model_id)
        return self._shelf.load_s(model) if model else 0.0

    def load_left_s(self, model_id: str) -> float:
        """How long it takes from now until a runner of the model is ready, seconds, as estimated.

        Less where a load is under way; more where each of its runners rests, after failures or in quarantine.
        """
        taken_s, expected_s = self.loading(model_id) or (0.0, self.load_s(model_id))
        return self._rest_s(model_id) + max(0.0, expected_s - taken_s)

    def _rest_s(self, model_id: str) -> float:
        """Seconds until a runner of the model, and a device, may be tried again."""
        now = self._clock()
        wards = [w for w in self._wards.values() if w.slot.model == model_id]
        tried_at = min((max(w.quarantine.until, w.supervisor.again_at) for w in wards), default=0.0)
        opened_at = min((b.quarantine.until if b.problem else 0.0 for b in self.berths.values()), default=0.0)
        return max(0.0, tried_at - now, opened_at - now)

    def loading(self, model_id: str) -> tuple[float, float] | None:
        """Seconds that the load of a model has taken so far, and that it is expected to take; None: none is under way.

        A load that waits for memory has taken 0.
        """
        wards = [w for w in self._wards.values() if w.slot.model == model_id]
        if not wards or self.table.warm(model_id):
            return None
        states = (RunnerState.STARTING, RunnerState.LOADING)
        taken = [self._clock() - w.supervisor.began for w in wards if w.supervisor.state in states]
        return max(taken, default=0.0), self.load_s(model_id)

    def model_of(self, slot: Slot) -> ModelSettings:
        """What a slot serves."""
        return self._wards[slot.name].model

    def need_of(self, slot: Slot) -> int:
        """Memory that a slot's runner is counted with, bytes."""
        return self.need(self._wards[slot.name].model)

    # Slots

    def _add(self, name: str, model: ModelSettings) -> None:
        slot = Slot(name, model.model_id, None)
        supervisor = Supervisor(slot, self._around, self._clock)
        ward = self._wards[name] = Ward(slot, model, supervisor)
        self.supervisors[name] = supervisor
        self.table.slots.append(slot)
        if (orphan := self._orphans.get(name)) and self._adopted(orphan):
            del self._orphans[name]
        if self._tasks:
            self._start(ward)

    def _start(self, ward: Ward) -> None:
        assert self._tasks is not None
        ward.task = self._tasks.create_task(ward.supervisor.run(), name=f"supervisor:{ward.slot.name}")

    def _change(self, ward: Ward, model: ModelSettings) -> None:
        """New settings of a slot. Where they make another runner, it is replaced after the job that it has."""
        before, ward.model = ward.model, model
        if ward.slot.device and self._differ(before, model, ward.slot):
            ward.slot.leaving = True

    def _differ(self, before: ModelSettings, after: ModelSettings, slot: Slot) -> bool:
        """Whether a slot's runner would be another one. What it is started with may not be there any more."""
        device = self.berths[slot.device or ""].device
        try:
            return self._make_spec(before, slot.name, device) != self._make_spec(after, slot.name, device)
        except StartError:
            return _started_with(before) != _started_with(after)

    def _drop(self, ward: Ward) -> None:
        name = ward.slot.name
        if ward.task:
            ward.task.cancel()
        del self._wards[name], self.supervisors[name]
        self.table.slots.remove(ward.slot)
        self.table.configure({m.model_id: m.queue for m in self._models().values()})

    def _models(self) -> Mapping[str, ModelSettings]:
        return {ward.model.model_id: ward.model for ward in self._wards.values() if ward.wanted}

    def _model(self, model_id: str) -> ModelSettings | None:
        return next((w.model for w in self._wards.values() if w.model.model_id == model_id), None)

    # Adoption

    async def _adopt(self) -> None:
        """Takes over runners of an earlier start that are what would be started now.

        One that differs is ended now, because its slot needs its place. An orphan, whose slot is not configured any
        more, is left alone for a grace: a configuration that was cut short by mistake does not cost its warm model.
        """
        try:
            found = await self._around.engine.recover()
        except EngineError as error:
            log.warning("nothing can be adopted", reason=str(error))
            return
        for handle in found:
            if handle.slot not in self._wards:
                assert self._tasks is not None
                self._tasks.create_task(self._orphan(handle), name=f"orphan:{handle.slot}")
            elif not self._adopted(handle):
                await self._end(handle)

    async def _orphan(self, handle: RunnerHandle) -> None:
        """Ends an orphan after the grace, or with the node, unless a reload has brought its slot back."""
        log.info("orphan found", slot=handle.slot, ref=handle.ref, ends_in_s=self._around.limits.orphan_s)
        self._orphans[handle.slot] = handle
        try:
            await asyncio.sleep(self._around.limits.orphan_s)
        finally:
            if self._orphans.pop(handle.slot, None):
                await asyncio.shield(self._end(handle))

    async def _end(self, handle: RunnerHandle) -> None:
        log.info("runner of an earlier start ends", slot=handle.slot, ref=handle.ref)
        with sheltered("a runner of an earlier start was not ended", slot=handle.slot, ref=handle.ref):
            await self._around.engine.stop(handle, self._around.limits.stop_s)

    def _adopted(self, handle: RunnerHandle) -> bool:
        ward = self._wards.get(handle.slot)
        if ward is None or ward.slot.device is not None:
            return False
        for berth in self.berths.values():
            spec = self._spec(ward, berth)
            if spec and spec.fingerprint == handle.fingerprint:
                self._put(ward, berth, Post(spec, handle))
                return True
        return False

    def _spec(self, ward: Ward, berth: Berth) -> RunnerSpec | None:
        """What is to be started; None, with the reason at its slot, when its folder or its weights are not there."""
        try:
            return self._make_spec(ward.model, ward.slot.name, berth.device)
        except StartError as error:
            self._waits(ward, str(error))
            return None

    # Placement

    def _round(self) -> None:
        """One round: lifts quarantines that are over, ends who leaves, puts who can be put."""
        now = self._clock()
        for berth in self.berths.values():
            if berth.problem and now >= berth.quarantine.until:
                self._open(berth)
        self._let_go()
        self._tell_faults()
        decided = plan(self._rooms(), self._residents(now), self._homeless(now))
        self._tell(decided)
        for name, device in decided.put:
            ward, berth = self._wards[name], self.berths[device]
            if spec := self._spec(ward, berth):
                self._put(ward, berth, Post(spec))
        for name in decided.evict:
            self._wards[name].slot.leaving = True
        if decided.evict:
            self._let_go()
        wards = self._wards.values()
        self._attentive = any(w.slot.leaving or (w.wanted and w.slot.device is None) for w in wards)

    def _put(self, ward: Ward, berth: Berth, post: Post) -> None:
        ward.put_at = ward.slot.used_at = self._clock()
        ward.told = ""
        ward.supervisor.put(berth.device.name, post)

    def _take(self, ward: Ward, reason: str, *, quarantine: bool = False) -> None:
        """Takes a runner from its device, once."""
        if not ward.taken:
            ward.taken = ward.slot.leaving = True
            ward.supervisor.take(reason, quarantine=quarantine)

    def _let_go(self) -> None:
        """Ends the runners that leave, once they have no job; drops slots that are no more."""
        for ward in list(self._wards.values()):
            if ward.slot.leaving and ward.slot.device and not ward.slot.holder:
                self._take(ward, f"{ward.slot.model} makes room" if ward.wanted else "not configured any more")
            elif not ward.wanted and ward.slot.device is None:
                self._drop(ward)

    def _rooms(self) -> list[Room]:
        return [Room(b.device.name, b.device.memory_bytes) for b in self.berths.values() if not b.problem]

    def _residents(self, now: float) -> list[Resident]:
        return [
            Resident(
                slot=ward.slot.name,
                model=ward.slot.model,
                device=ward.slot.device,
                need_bytes=self.need(ward.model),
                warm=ward.model.warm and ward.wanted,
                leaving=ward.slot.leaving,
                stayed_s=now - ward.put_at,
                min_stay_s=ward.model.min_stay_s,
                idle_s=0.0 if ward.slot.holder else now - ward.slot.used_at,
                oldest_wait_s=self.table.oldest_wait_s(ward.slot.model),
            )
            for ward in self._wards.values()
            if ward.slot.device
        ]

    def _homeless(self, now: float) -> list[Homeless]:
        """Who wants a device: warm models, models that jobs wait for, and models of which nothing is known yet."""
        found = []
        for ward in self._wards.values():
            if ward.slot.device or not ward.wanted or now < ward.quarantine.until or self._shelf.fault(ward.model):
                continue
            wanted_now = self._asked_for(ward) or self._to_look_at(ward)
            waits_s = max(JUST_NOW_S, self.table.oldest_wait_s(ward.slot.model)) if wanted_now else 0.0
            if ward.model.warm or waits_s > 0 or not self._shelf.knows(ward.model):
                need, pin = self.need(ward.model), self._pin(ward.model)
                found.append(Homeless(ward.slot.name, ward.slot.model, need, ward.model.warm, pin, waits_s))
        return found

    def _tell_faults(self) -> None:
        """Says at the slots of models whose folders cannot be served why they stay empty; their jobs do not wait."""
        for ward in self._wards.values():
            fault = self._shelf.fault(ward.model)
            if fault and ward.slot.device is None:
                ward.supervisor.reason, name = fault, ward.slot.model
                self._give_up(name, NodeError(f"{name} cannot be served: {fault}", code="load_failed"))

    def _to_look_at(self, ward: Ward) -> bool:
        """Whether a model on demand has to be loaded once, to be offered; one that failed at it evicts nobody."""
        return not (ward.model.warm or ward.supervisor.restarts or self._shelf.knows(ward.model))

    def _asked_for(self, ward: Ward) -> bool:
        """Whether more jobs of the model wait than its runners that are there, or on their way, can take at once."""
        there = sum(1 for slot in self.table.of(ward.slot.model) if slot.device and not slot.leaving)
        return len(self.table.waiting(ward.slot.model)) + len(self.table.running(ward.slot.model)) > there

    def need(self, model: ModelSettings) -> int:
        """Memory of a model's runner, bytes. A mere guess is cut to the largest device: then it is tried."""
        need, known = need_bytes(model, self._shelf.facts(model), self._shelf.weights_bytes(model))
        sizes = [b.device.memory_bytes for b in self.berths.values()]
        if known or any(size is None for size in sizes):
            return need
        return min(need, max(size for size in sizes if size is not None))

    def _pin(self, model: ModelSettings) -> str | None:
        """The device that a model is pinned to, by the name that it has here."""
        if model.device is None:
            return None
        for name, berth in self.berths.items():
            if model.device in (name, name.partition("/")[0]) or (berth.device.uuid or "").startswith(model.device):
                return name
        return model.device

    def _tell(self, decided: Plan) -> None:
        """Says why a runner is not there, to whoever asks for it, and once in the log."""
        problems = [b.problem for b in self.berths.values() if b.problem]
        for name, reason in decided.waiting.items():
            self._waits(self._wards[name], "; ".join([reason, *problems]))

    def _waits(self, ward: Ward, reason: str) -> None:
        if ward.supervisor.state in (RunnerState.STOPPED, RunnerState.QUARANTINED) and ward.slot.device is None:
            ward.supervisor.reason = reason
        if ward.told != reason:
            ward.told = reason
            log.info("runner waits for a device", slot=ward.slot.name, reason=reason)

    # Faults

    def _ended(self, slot: Slot, ended: Ended) -> None:
        """A runner failed. Of the kernel's faults only so many are taken."""
        self.restarts[slot.model, ended.kind] += 1
        ward = self._wards[slot.name]
        now, limits = self._clock(), self._around.limits
        if ended.kind in KERNELS and ward.quarantine.too_many(now, limits):
            ward.quarantine.begin(now, limits)
            log.error("slot in quarantine", slot=slot.name, reason=ended.text)
            self._take(ward, ended.text, quarantine=True)
            self._give_up(slot.model, NodeError(f"{slot.model} is in quarantine here: {ended.text}", code="quarantine"))
        elif not ward.supervisor.loaded:
            kind = TransientError if ended.kind is End.ENGINE else NodeError  # an engine comes back
            self._give_up(slot.model, kind(f"{slot.model} could not be loaded: {ended.text}", code="load_failed"))

    def _give_up(self, model_id: str, error: ReelnetError) -> None:
        """Fails the jobs that wait for a model, unless a runner of it is there or on its way."""
        coming = (RunnerState.STARTING, RunnerState.LOADING, RunnerState.READY, RunnerState.BUSY)
        if not any(w.supervisor.state in coming for w in self._wards.values() if w.slot.model == model_id):
            self.table.fail_waiting(error, model_id)

    def _loaded(self, slot: Slot, seconds: float) -> None:
        """A runner has loaded its model, in so many seconds."""
        slot.loaded_at = self._clock()
        self.cold_starts[slot.model] += 1
        self._shelf.loaded(self._wards[slot.name].model, seconds)

    def _measured(self, slot: Slot, size: int) -> None:
        """A runner says what it takes; more than its device has it cannot take."""
        most = self.berths[slot.device or ""].device.memory_bytes
        self._shelf.measured(self._wards[slot.name].model, min(size, most or size))

    def _shut(self, berth: Berth, reason: str) -> None:
        berth.problem = f"{berth.device.name} is in quarantine: {reason}"
        berth.quarantine.begin(self._clock(), self._around.limits)
        for ward in self._on(berth):
            self._take(ward, berth.problem, quarantine=True)
        if all(b.problem for b in self.berths.values()):
            self.table.fail_waiting(NodeError(berth.problem, code="device"))
        self.wake()

    def _open(self, berth: Berth) -> None:
        if berth.problem:
            log.info("device is tried again", device=berth.device.name)
        berth.problem = ""
        berth.quarantine.end()
        self.wake()

    def _on(self, berth: Berth) -> list[Ward]:
        return [ward for ward in self._wards.values() if ward.slot.device == berth.device.name]

    def _gone(self, slot: Slot) -> None:
        """A runner has left its device."""
        self._wards[slot.name].taken = False
        self.wake()
        self._around.table.on_change()


def _started_with(model: ModelSettings) -> tuple[object, ...]:
    """What a runner is started with, apart from its folders, which may be gone."""
    return model.model, model.backend, model.image, dict(model.flags), tuple(model.pipelines)
