"""The operator's side of a node: what is shown of it, and what a reload does and does not do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from orchestrator import supervisor
from orchestrator.control import Controlled
from orchestrator.devices import Device
from orchestrator.engine import EngineError, RunnerHandle
from orchestrator.gpus import GpuReading
from orchestrator.model_facts import FactBook
from orchestrator.model_shelf import ModelShelf
from orchestrator.node import Node, NodeParts
from orchestrator.node_metrics import NodeMetrics
from orchestrator.operation import Operation
from orchestrator.settings import OrchestratorSettings
from orchestrator.specs import make_spec
from orchestrator.spool import Spool
from reelnet.errors import ConfigError, NodeError, StartError
from reelnet.identity import Identity
from tests.fakes.engine import Life, ScriptedEngine

PATIENCE_S = 20.0
GIB = 2**30
CARD = Device("cuda:0", "GPU-0", 24 * GIB, "a card")


class TalkingEngine(ScriptedEngine):
    """Has a log for each runner, until `mute` is set."""

    mute = False

    async def logs(self, handle: RunnerHandle, lines: int) -> str:
        if self.mute:
            raise EngineError("no Docker engine answers")
        return f"{lines} lines of {handle.slot}"


@dataclass
class Office:
    """A node at work over scripted runners, its operator's side, and the file that a reload reads."""

    node: Node
    engine: TalkingEngine
    operation: Operation
    file: list[OrchestratorSettings | Exception]
    stopping: asyncio.Event
    said: list[bool]
    """What is kept of the operator's word."""

    async def until(self, so: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not so():
                await asyncio.sleep(0.002)

    def say(self, **values: Any) -> None:
        """What the file says from now on."""
        before = self.node.settings
        self.file[0] = OrchestratorSettings.model_validate({**before.model_dump(exclude={"models"}), **values})


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: Unix sockets lie below it."""
    return tmp_path_factory.mktemp("o")


def model(name: str = "acme/sd", **more: Any) -> dict[str, Any]:
    return {"model": name, "backend": {"synthetic": {}}, **more}


@asynccontextmanager
async def office(
    home: Path, *models: dict[str, Any], lives: tuple[Life, ...] = (Life(),), read: dict[str, GpuReading] | None = None,
    faults: dict[str, str] | None = None,
) -> AsyncIterator[Office]:  # fmt: skip
    """A node for the length of the block. `faults` are what is wrong with models' folders."""
    limits = {"restart_backoff_s": 60, "models_look_s": 0.01}
    settings = OrchestratorSettings.model_validate({"models": list(models), "limits": limits})
    engine = TalkingEngine(lives)
    identity = Identity.load_or_create(home / "identity.key")
    node: Node
    shelf = ModelShelf(FactBook(home / "models.json"), lambda _: None, lambda m: (faults or {}).get(m.model_id, ""))
    await shelf.look(settings.models)
    parts = NodeParts(
        settings=settings,
        identity=identity,
        engine=engine,
        devices=(CARD,),
        shelf=shelf,
        make_spec=lambda model, slot, device: make_spec(node.settings, model, slot, device, home),
        spool=Spool(home / "spool", GIB),
        metrics=NodeMetrics(CollectorRegistry()),
        rng=random.Random(1),
    )
    node = Node(parts)
    file: list[OrchestratorSettings | Exception] = [settings]

    def reread() -> OrchestratorSettings:
        if isinstance(file[0], Exception):
            raise file[0]
        return file[0]

    stopping, said = asyncio.Event(), list[bool]()
    address = f"127.0.0.1:1#{node.id}"
    operation = Operation(node, engine, "scripted", address, reread, lambda: {} if read is None else read, said.append)
    task = asyncio.create_task(node.run(stopping, lambda: None))
    try:
        yield Office(node, engine, operation, file, stopping, said)
    finally:
        stopping.set()
        await task
        await engine.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners are looked at often."""
    monkeypatch.setattr(supervisor, "READY_POLL_S", 0.002)
    monkeypatch.setattr(supervisor, "LAST_WORD_S", 0.01)


async def test_a_node_is_shown_as_it_is(home: Path) -> None:
    """Slots, models and devices; what is not known is None, never a made up 0."""
    priced = {"text-to-image": {"price": {"job": "0.01"}}}
    models = model(pipelines=priced, memory_bytes=GIB), model("acme/later", warm=False, queue=3)
    read: dict[str, GpuReading] = {}
    async with office(home, *models, read=read) as at:
        await at.until(lambda: len(at.node.offers.by_key) == 2)
        operation: Controlled = at.operation
        status = operation.status()
        assert (status.node_id, status.engine, status.draining) == (at.node.id, "scripted", False)
        assert status.address == f"127.0.0.1:1#{at.node.id}"
        assert (status.jobs, status.queued) == (0, 0)
        slot = status.slots[0]
        assert (slot.model, slot.device, slot.state, slot.reason) == ("acme/sd", "cuda:0", "ready", "")
        assert slot.restarts == 0
        assert (slot.job_id, slot.stage, slot.step, slot.p50_s, slot.jobs_per_h) == (None, None, None, None, 0)
        assert slot.memory_bytes == GIB
        first, later = status.models
        assert (first.loaded, first.digest, first.memory_bytes, first.prices) == (
            1, "d" * 64, GIB, {"text-to-image": {"job": "0.01"}}
        )  # fmt: skip
        assert (later.warm, later.queue, later.queued) == (False, 3, 0)
        (device,) = status.devices
        assert (device.name, device.uuid, device.title, device.memory_bytes) == ("cuda:0", "GPU-0", "a card", 24 * GIB)
        assert (device.memory_used_bytes, device.utilisation, device.temperature_c, device.power_w) == (None,) * 4
        read["GPU-0"] = GpuReading("GPU-0", memory_used_bytes=5, utilisation=0.5)
        (device,) = at.operation.status().devices
        assert (device.memory_used_bytes, device.utilisation, device.temperature_c) == (5, 0.5, None)


async def test_why_a_slot_is_not_ready_is_shown(home: Path) -> None:
    """The runner's own reason, and the device's problem."""
    broken = Life(health=[{"state": "SETUP_FAILED", "reason": "no such tensor"}])
    async with office(home, model(), lives=(broken,)) as at:
        await at.until(lambda: at.operation.status().slots[0].state == "backoff")
        (slot,) = at.operation.status().slots
        assert (slot.reason, slot.restarts) == ("no such tensor", 1)
        at.node.keeper.fault("GPU-0", "XID 79: fell off the bus", fatal=True)
        await at.until(lambda: at.operation.status().slots[0].state == "quarantined")
        status = at.operation.status()
        assert "XID 79" in status.devices[0].problem
        assert "XID 79" in status.slots[0].reason
        at.operation.resume()
        await at.until(lambda: at.operation.status().slots[0].restarts == 2)
        assert at.operation.status().devices[0].problem == ""


async def test_a_drained_node_takes_jobs_again(home: Path) -> None:
    """Both words may be said twice."""
    async with office(home, model()) as at:
        for word, draining in ((at.operation.drain, True), (at.operation.resume, False)):
            word()
            word()
            assert at.operation.status().draining is draining
            assert at.operation.status().drained is draining
            assert at.node.load().draining is draining
        assert at.said == [True, True, False, False]


async def test_a_node_that_stops_is_not_drained(home: Path) -> None:
    """The next start takes jobs, unless the operator said otherwise; `resume` keeps no node from stopping."""
    async with office(home, model()) as at:
        at.stopping.set()
        await at.until(lambda: at.node.draining)
        assert (at.operation.status().drained, at.said) == (False, [])
        at.operation.resume()
        status = at.operation.status()
        assert (status.draining, status.drained, at.said) == (True, False, [False])


async def test_a_reload_takes_over_what_it_can(home: Path) -> None:
    """And says all that differs; what needs a restart stays as it was, and is said again the next time."""
    async with office(home, model()) as at:
        await at.until(lambda: at.operation.status().slots[0].state == "ready")
        at.say(models=[model(queue=3), model("acme/new")], limits={"stall_s": 40}, log_level="debug")
        assert await at.operation.reload() == (
            "models: acme/new is new",
            "models: acme/sd queue: 8 → 3",
            "limits.stall_s: 30.0 → 40.0",
            "limits.restart_backoff_s: 60.0 → 1.0",
            "limits.models_look_s: 0.01 → 10.0",
            "log_level: info → debug (needs a restart)",
        )
        assert at.node.settings.log_level == "info"
        assert at.node.settings.limits.stall_s == 40
        await at.until(lambda: [slot.state for slot in at.operation.status().slots] == ["ready"] * 2)
        assert at.engine.starts == 2, "another queue needs no other runner"
        assert await at.operation.reload() == ("log_level: info → debug (needs a restart)",)


async def test_a_bad_file_changes_nothing(home: Path) -> None:
    """Nothing of one that cannot be read is taken over."""
    async with office(home, model()) as at:
        before = at.node.settings
        at.file[0] = ConfigError("orchestrator.yaml: modles: unknown key")
        with pytest.raises(ConfigError, match="modles"):
            await at.operation.reload()
        assert at.node.settings is before
        assert [slot.model for slot in at.operation.status().slots] == ["acme/sd"]


async def test_a_model_without_its_folder_stops_no_other(home: Path) -> None:
    """It is shown with the reason, said once in the log, and taken up when the folder is there."""
    faults = {"acme/late": "/m/acme/late: there is no such folder; put the model there"}
    with capture_logs() as logs:
        async with office(home, model(), model("acme/late", warm=False), faults=faults) as at:
            await at.until(lambda: at.operation.status().slots[0].state == "ready")
            await at.until(lambda: at.operation.status().slots[1].reason)
            status = at.operation.status()
            assert [m.problem for m in status.models] == ["", faults["acme/late"]]
            assert (status.slots[1].state, status.slots[1].reason) == ("stopped", faults["acme/late"])
            assert (at.node.not_ready(), {model for _, model in at.node.offers.by_key}) == (None, {"acme/sd"})
            faults.clear()
            await at.until(lambda: at.operation.status().slots[1].state == "ready")
            assert at.operation.status().models[1].problem == ""
    told = [(entry["event"], entry["model"]) for entry in logs if "served" in entry["event"]]
    assert told == [("a model cannot be served", "acme/late"), ("a model can be served now", "acme/late")]


async def test_a_node_without_any_folder_is_there(home: Path) -> None:
    """It takes no job, and `/readyz` says why."""
    async with office(home, model(), faults={"acme/sd": "the folder is missing"}) as at:
        await at.until(lambda: "the folder is missing" in (at.node.not_ready() or ""))
        assert at.engine.starts == 0


async def test_a_reload_tells_of_a_model_without_its_folder(home: Path) -> None:
    """It is applied: the model comes when its folder does. One that is loaded goes on, and is offered."""
    faults: dict[str, str] = {}
    async with office(home, model(), faults=faults) as at:
        await at.until(lambda: at.operation.status().slots[0].state == "ready")
        faults |= {"acme/none": "the folder is missing", "acme/sd": "the disk is gone"}
        at.say(models=[model(), model("acme/none")], limits=at.node.settings.limits.model_dump())
        assert await at.operation.reload() == (
            "models: acme/none is new",
            "models: acme/sd cannot be served: the disk is gone",
            "models: acme/none cannot be served: the folder is missing",
        )
        await at.until(lambda: at.operation.status().slots[1].reason == "the folder is missing")
        assert at.operation.status().slots[0].state == "ready"
        assert {model for _, model in at.node.offers.by_key} == {"acme/sd"}
        faults.clear()
        await at.until(lambda: [slot.state for slot in at.operation.status().slots] == ["ready"] * 2)
        assert at.engine.starts == 2, "what was loaded is not loaded again"


async def test_no_job_waits_for_a_model_that_cannot_be_loaded(home: Path) -> None:
    """It has left its device, and its folder is gone: it is not offered any more, and who waits is told why."""
    faults: dict[str, str] = {}
    async with office(home, model(warm=False), faults=faults) as at:
        await at.until(lambda: at.node.offers.by_key and at.operation.status().slots[0].state == "ready")
        at.node.keeper.fault("GPU-0", "XID 79: fell off the bus", fatal=True)
        await at.until(lambda: at.operation.status().slots[0].state == "quarantined")
        place = at.node.table.reserve("acme/sd", 1.0)
        faults["acme/sd"] = "the folder is missing"
        await at.operation.reload()
        with pytest.raises(NodeError, match="acme/sd cannot be served: the folder is missing"):
            await place.granted
        assert at.node.offers.by_key == {}


async def test_a_model_that_no_container_could_run_is_a_bad_file(home: Path) -> None:
    """As at the start: where runners are containers, each model has an image."""
    async with office(home, model()) as at:
        at.operation._engine_name = "docker"
        at.say(models=[model(image="runner:1"), model("acme/new")])
        with pytest.raises(ConfigError, match="no container image is named for acme/new"):
            await at.operation.reload()
        at.say(models=[model(image="runner:1"), model("acme/new")], image="runner:2")
        assert "models: acme/new is new" in await at.operation.reload()


async def test_two_reloads_at_once_are_one_after_the_other(home: Path) -> None:
    """The second compares with what the first has made."""
    async with office(home, model()) as at:
        at.say(models=[model(queue=3)], limits=at.node.settings.limits.model_dump())
        said = await asyncio.gather(at.operation.reload(), at.operation.reload())
        assert said == [("models: acme/sd queue: 8 → 3",), ()]


async def test_logs_are_the_engines(home: Path) -> None:
    """Where there is no runner, or no engine, the operator is told so."""
    async with office(home, model()) as at:
        await at.until(lambda: at.operation.status().slots[0].state == "ready")
        (name,) = at.node.supervisors
        assert await at.operation.logs(name, 7) == f"7 lines of {name}"
        at.engine.mute = True
        with pytest.raises(StartError, match="no Docker engine"):
            await at.operation.logs(name, 7)
        with pytest.raises(StartError, match="it is gone"):
            await at.operation.logs("nobody", 7)
        at.engine.kill(1)
        await at.until(lambda: at.operation.status().slots[0].state == "backoff")
        with pytest.raises(StartError, match="exit code 1"):
            await at.operation.logs(name, 7)
