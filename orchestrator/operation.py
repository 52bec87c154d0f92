"""The operator's side of a node: what `status`, `drain`, `resume`, `reload` and `logs` do to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

from orchestrator.attempts import Attempt
from orchestrator.changes import changes, checked
from orchestrator.docker_engine import NAME as DOCKER
from orchestrator.engine import EngineError, RunnerEngine
from orchestrator.engines import without_image
from orchestrator.gpus import GpuReading
from orchestrator.history import History
from orchestrator.keeper import Berth
from orchestrator.node import Node
from orchestrator.runner_state import RunnerState
from orchestrator.settings import ModelSettings, OrchestratorSettings
from orchestrator.status import DeviceStatus, ModelStatus, NodeStatus, SlotStatus, WatcherStatus
from orchestrator.supervisor import Supervisor
from reelnet.errors import ConfigError, StartError

Reread = Callable[[], OrchestratorSettings]
"""Reads the configuration again. Raises ConfigError."""


class Operation:
    """One running node as its operator sees it.

    `readings` are the GPUs' newest, by UUID; `say` keeps for the next start whether the node is drained.
    """

    def __init__(
        self, node: Node, engine: RunnerEngine, engine_name: str, address: str, reread: Reread,
        readings: Callable[[], Mapping[str, GpuReading]] = dict, say: Callable[[bool], None] = lambda drained: None,
    ) -> None:  # fmt: skip
        self._node = node
        self._engine = engine
        self._engine_name = engine_name
        self._address = address
        self._reread = reread
        self._readings = readings
        self._say = say
        self._began = time.monotonic()
        self._reloading = asyncio.Lock()

    def status(self) -> NodeStatus:
        """The node as it is now, from memory."""
        node, now = self._node, time.monotonic()
        at_work = {attempt.slot.name: attempt for attempt in node.attempts() if attempt.slot}
        return NodeStatus(
            node_id=node.id,
            address=self._address,
            version=version("reelnet"),
            engine=self._engine_name,
            draining=node.draining,
            drained=node.drained,
            since_s=now - self._began,
            slots=tuple(self._slot(keeper, at_work.get(name), now) for name, keeper in node.supervisors.items()),
            devices=tuple(self._device(berth) for berth in node.keeper.berths.values()),
            models=tuple(self._model(model) for model in node.settings.models),
            jobs=len(node.attempts()),
            watchers=tuple(WatcherStatus(w.id, node.serves(w.id), w.skew_s) for w in node.watchers.now()),
            skew_warn_s=node.settings.limits.skew_s,
            queued=sum(len(node.table.waiting(model.model_id)) for model in node.settings.models),
        )

    def drain(self) -> None:
        """Takes no new job from now on; those that are here go on. Safe to repeat."""
        self._node.drain()
        self._say(True)

    def resume(self) -> None:
        """Takes jobs again, and tries again what is in quarantine. Safe to repeat."""
        self._node.resume()
        self._say(False)

    async def reload(self) -> tuple[str, ...]:
        """Reads the configuration again; returns what changed, and which models cannot be served, a line each.

        After a ConfigError nothing is changed.
        """
        async with self._reloading:
            wanted = await asyncio.to_thread(self._read_again)
            faults = await self._node.look_at(wanted.models)
            before = self._node.settings
            self._node.apply(checked(before, wanted))
            return (*changes(before, wanted), *faults)

    async def logs(self, slot: str, lines: int) -> str:
        """The last lines of a slot's runner. Raises StartError when its engine cannot give them."""
        supervisor = self._node.supervisors.get(slot)
        if supervisor is None or supervisor.handle is None:
            raise StartError(f"{slot} has no runner now: {supervisor.reason if supervisor else 'it is gone'}")
        try:
            return await self._engine.logs(supervisor.handle, lines)
        except EngineError as error:
            raise StartError(str(error)) from None

    def _read_again(self) -> OrchestratorSettings:
        wanted = self._reread()
        if self._engine_name == DOCKER and (without := without_image(wanted)):
            raise ConfigError(f"image: no container image is named for {without}")
        return wanted

    def _slot(self, keeper: Supervisor, attempt: Attempt | None, now: float) -> SlotStatus:
        slot = keeper.slot
        history = self._node.histories.get(slot.name, History())
        at = attempt.progress if attempt else None
        return SlotStatus(
            slot=slot.name,
            model=slot.model,
            device=slot.device or "",
            state=keeper.state.value,
            reason=keeper.reason,
            since_s=now - keeper.since,
            restarts=keeper.restarts,
            job_id=attempt.ticket.job_id if attempt else None,
            stage=at.stage if at else None,
            step=at.step if at else None,
            total=at.total if at else None,
            memory_bytes=self._node.keeper.need_of(slot) or None,
            jobs_per_h=history.jobs_per_hour(now),
            p50_s=history.quantile_s(0.5, now),
            p95_s=history.quantile_s(0.95, now),
        )

    def _device(self, berth: Berth) -> DeviceStatus:
        device = berth.device
        read = self._readings().get(device.uuid or "")
        return DeviceStatus(
            name=device.name,
            uuid=device.uuid,
            title=device.title,
            memory_used_bytes=read.memory_used_bytes if read else None,
            memory_bytes=device.memory_bytes,
            utilisation=read.utilisation if read else None,
            temperature_c=read.temperature_c if read else None,
            power_w=read.power_w if read else None,
            problem=berth.problem,
        )

    def _model(self, model: ModelSettings) -> ModelStatus:
        node, name = self._node, model.model_id
        loaded = (RunnerState.READY, RunnerState.BUSY)
        keepers = [keeper for keeper in node.supervisors.values() if keeper.slot.model == name]
        offers = [offer for key, offer in node.offers.by_key.items() if key[1] == name]
        return ModelStatus(
            model=name,
            warm=model.warm,
            replicas=model.replicas,
            loaded=sum(1 for keeper in keepers if keeper.state in loaded),
            device=model.device,
            digest=offers[0].model_digest if offers else "",
            memory_bytes=node.keeper.need(model) or None,
            queued=len(node.table.waiting(name)),
            queue=model.queue,
            prices={pipeline: offer.price for pipeline, offer in model.pipelines.items()},
            problem=node.faults()[name],
        )
