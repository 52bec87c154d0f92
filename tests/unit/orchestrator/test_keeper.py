"""Who is put where, adopted, evicted and kept away: the keeper over scripted runners and a clock of the test's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import keeper as module
from orchestrator import supervisor
from orchestrator.devices import Device
from orchestrator.engine import RunnerHandle, RunnerSpec
from orchestrator.keeper import Keeper
from orchestrator.model_facts import FactBook
from orchestrator.model_shelf import ModelShelf
from orchestrator.runner_state import RunnerState
from orchestrator.settings import Limits, ModelSettings
from orchestrator.slots import Reservation, Slot, SlotTable, slot_name
from orchestrator.supervisor import Supervisor, Surroundings
from reelnet.errors import NodeError, StartError, TransientError
from tests.fakes.engine import Life, ScriptedEngine

PATIENCE_S = 3.0
GIB = 2**30
S = RunnerState


@dataclass
class Bench:
    """A keeper at work."""

    keeper: Keeper
    engine: ScriptedEngine
    around: Surroundings
    shelf: ModelShelf
    now: list[float]
    task: asyncio.Task[None] | None = None
    ready: list[str] = field(default_factory=list)

    @property
    def table(self) -> SlotTable:
        return self.around.table

    def slot(self, model: str, replica: int = 0) -> Slot:
        return next(s for s in self.table.slots if s.name == slot_name(model, replica))

    def supervisor(self, model: str, replica: int = 0) -> Supervisor:
        return self.keeper.supervisors[slot_name(model, replica)]

    def ask(self, model: str) -> Reservation:
        """A job that waits for a slot."""
        place = self.table.reserve(model, 1.0)
        self.table.input_complete(place)
        return place

    def later(self, seconds: float) -> None:
        """Time passes."""
        self.now[0] += seconds
        self.keeper.wake()

    async def until(self, so: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not so():
                if self.task and self.task.done():
                    await self.task
                await asyncio.sleep(0.002)


def model(name: str, gigabytes: float = 0, **more: Any) -> ModelSettings:
    """A synthetic model that needs so much memory."""
    options = {"model": name, "backend": {"synthetic": {}}, "min_stay_s": 60, **more}
    if gigabytes:
        options["memory_bytes"] = int(gigabytes * GIB)
    return ModelSettings.model_validate(options)


CPU = Device("cpu/0", None, 24 * GIB, "CPU")
CARDS = tuple(Device(f"cuda:{i}", f"GPU-{i}", 24 * GIB, "card") for i in range(2))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is longer than a moment."""
    monkeypatch.setattr(module, "ROUND_S", 0.01)
    monkeypatch.setattr(supervisor, "READY_POLL_S", 0.002)
    monkeypatch.setattr(supervisor, "LAST_WORD_S", 0.01)
    monkeypatch.setattr(supervisor, "backoff_s", lambda *_: 0.0)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: Unix sockets lie below it."""
    return tmp_path_factory.mktemp("k")


@asynccontextmanager
async def bench(
    folder: Path, *models: ModelSettings, devices: tuple[Device, ...] = (CPU,), lives: tuple[Life, ...] = (Life(),),
    engine: ScriptedEngine | None = None, run: bool = True, **limits: Any,
) -> AsyncIterator[Bench]:  # fmt: skip
    """A keeper of these models, for the length of the block."""
    now = [1000.0]
    engine = engine or ScriptedEngine(lives)
    table = SlotTable([], {}, lambda: now[0])
    shelf = ModelShelf(FactBook(folder / "models.json"), lambda model: None)
    around = Surroundings(engine, table, Limits(**limits), random.Random(1), lambda slot, info: None)

    def make_spec(model: ModelSettings, slot: str, device: Device) -> RunnerSpec:
        (folder / slot).mkdir(exist_ok=True)
        return RunnerSpec(
            slot,
            model.model_id,
            model.model,
            "synthetic",
            device.name,
            folder / slot,
            flags=model.flags,
            gpu=device.uuid,
        )

    keeper = Keeper(around, devices, shelf, make_spec, lambda: now[0])
    table.on_change = keeper.changed
    made = Bench(keeper, engine, around, shelf, now)
    around.on_ready = lambda slot, info: (made.ready.append(slot.model), shelf.ready(keeper.model_of(slot), info))[0]
    keeper.apply(models)
    if run:
        made.task = asyncio.create_task(keeper.run())
    try:
        yield made
    finally:
        if made.task:
            made.task.cancel()
            await asyncio.wait((made.task,))
        await engine.close()


async def test_warm_models_are_there_from_the_start(folder: Path) -> None:
    """Spread over the devices, replicas apart."""
    async with bench(folder, model("a", 4, replicas=2), model("b", 4), devices=CARDS) as b:
        await b.until(lambda: all(slot.ready for slot in b.table.slots))
        assert {b.slot("a").device, b.slot("a", 1).device} == {"cuda:0", "cuda:1"}
        assert b.keeper.cold_starts == {"a": 2, "b": 1}


async def test_a_model_on_demand_is_looked_at_once(folder: Path) -> None:
    """So that it can be offered; then it makes room when another is asked for, and comes back for a job."""
    a, z = model("a", 20, warm=False), model("z", 20, warm=False)
    async with bench(folder, a, z) as b:
        await b.until(lambda: b.slot("a").ready)
        assert b.slot("z").device is None
        assert "waits for" in b.supervisor("z").reason
        b.later(100)
        job = b.ask("z")
        await b.until(lambda: job.granted.done())
        assert (job.granted.result().model, b.slot("a").device) == ("z", None)
        assert b.supervisor("a").state is S.STOPPED
        b.table.withdraw(job)
        again = b.ask("a")
        await asyncio.sleep(0.05)
        assert b.slot("z").device, "it has only just come: it stays for its minimum"
        b.later(100)
        await b.until(lambda: again.granted.done())
        assert b.slot("z").device is None


async def test_a_model_that_works_is_not_evicted(folder: Path) -> None:
    """It leaves when its job is done, and takes no further one; nobody starves."""
    a, z = model("a", 20, warm=False), model("z", 20, warm=False)
    async with bench(folder, a, z) as b:
        await b.until(lambda: b.slot("a").ready)
        running = b.ask("a")
        b.later(100)
        other = b.ask("z")
        b.later(1)
        late = b.ask("a")
        await b.until(lambda: b.slot("a").leaving)
        assert running.granted.result() is b.slot("a")
        assert b.slot("a").ready
        b.table.withdraw(running)
        await b.until(lambda: other.granted.done())
        assert not late.granted.done()
        b.later(100)
        b.table.withdraw(other)
        await b.until(lambda: late.granted.done())


async def test_facts_outlast_the_node(folder: Path) -> None:
    """What a model is, needs and takes to load is known at the next start, and nothing is loaded to find it out."""
    a = model("a", warm=False)
    life = Life(health=[{"state": "READY", "memory_bytes": 7 * GIB}])
    async with bench(folder, a, lives=(life,)) as b:
        await b.until(lambda: b.shelf.facts(a).need_bytes == 7 * GIB)
        await b.until(
            lambda: (folder / "models.json").exists() and "need_bytes" in (folder / "models.json").read_text()
        )
        await b.until(lambda: str(7 * GIB) in (folder / "models.json").read_text())
    async with bench(folder, a) as b:
        assert b.shelf.knows(a)
        assert (b.keeper.need(a), b.slot("a").device) == (7 * GIB, None)
        job = b.ask("a")
        await b.until(lambda: job.granted.done())
    changed = model("a", warm=False, flags={"png_level": "9"})
    async with bench(folder, changed, run=False) as b:
        assert not b.shelf.knows(changed), "another configuration is another runner: it is looked at anew"


async def test_a_runner_takes_no_more_than_its_device_has(folder: Path) -> None:
    """Whatever it claims, else the model is put nowhere again; of a device of unknown size it is believed."""
    a, boundless = model("a"), Device("cpu/1", None, None, "CPU")
    claims = Life(health=[{"state": "READY", "memory_bytes": 2**60}])
    async with bench(folder, a, lives=(claims,)) as b:
        await b.until(lambda: b.shelf.facts(a).need_bytes is not None)
        assert b.keeper.need(a) == 24 * GIB
    (folder / "other").mkdir()
    async with bench(folder / "other", a, lives=(claims,), devices=(boundless,)) as b:
        await b.until(lambda: b.shelf.facts(a).need_bytes == 2**60)


async def test_runners_of_an_earlier_start_are_adopted(folder: Path) -> None:
    """Those that are what would be started now; what is not, and what nobody wants, is ended."""
    engine = ScriptedEngine([Life()])
    before = {name: RunnerSpec(
        slot_name(name, 0), name, name, "synthetic", "cuda:1", folder / slot_name(name, 0), gpu="GPU-1"
    ) for name in ("a", "b", "gone")}  # fmt: skip
    for spec in before.values():
        spec.folder.mkdir()
        handle = await engine.start(spec)
        engine.left.append(replace(handle, fingerprint=spec.fingerprint))
    changed = model("b", flags={"png_level": "9"})
    async with bench(folder, model("a"), changed, devices=CARDS, engine=engine, orphan_s=0.05) as b:
        await b.until(lambda: len(b.ready) == 2 and len(engine.stops) == 2)
        assert (b.supervisor("a").adopted, b.slot("a").device, b.supervisor("b").adopted) == (True, "cuda:1", False)
        assert (engine.stops, engine.alive) == (["2", "3"], {"1", "4"})
        assert b.keeper.cold_starts == {"b": 1}


async def test_an_orphan_has_a_grace(folder: Path) -> None:
    """Its slot may be configured again in a moment; it ends with the node at the latest."""
    engine = ScriptedEngine([Life()])
    spec = RunnerSpec("gone", "gone", "gone", "synthetic", "cpu/0", folder)
    engine.left.append(replace(await engine.start(spec), fingerprint=spec.fingerprint))
    async with bench(folder, model("a"), engine=engine, orphan_s=900) as b:
        await b.until(lambda: b.slot("a").ready)
        assert "1" in engine.alive
        assert b.task
        b.task.cancel()
        await asyncio.wait((b.task,))
        assert engine.alive == set()


async def test_an_orphan_ends_though_its_node_is_hurried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal while the runner is being ended leaves no runner behind."""
    engine, ending, let_end = ScriptedEngine([Life()]), asyncio.Event(), asyncio.Event()
    spec = RunnerSpec("gone", "gone", "gone", "synthetic", "cpu/0", folder)
    engine.left.append(await engine.start(spec))
    stop = engine.stop

    async def slowly(handle: RunnerHandle, grace_s: float) -> None:
        ending.set()
        await let_end.wait()
        await stop(handle, grace_s)

    monkeypatch.setattr(engine, "stop", slowly)
    async with bench(folder, engine=engine, run=False, orphan_s=900) as b:
        orphan = asyncio.create_task(b.keeper._orphan(engine.left[0]))
        await asyncio.sleep(0)
        orphan.cancel()
        await ending.wait()
        orphan.cancel()
        await asyncio.wait((orphan,))
        let_end.set()
        await b.until(lambda: engine.alive == set())


@pytest.mark.parametrize(
    ("pin", "devices", "device"),
    [("cpu", (CARDS[0], CPU), "cpu/0"), ("GPU-1", CARDS, "cuda:1"), ("cuda:1", CARDS, "cuda:1")],
)
async def test_a_pinned_model_goes_where_it_was_told(
    folder: Path, pin: str, devices: tuple[Device, ...], device: str
) -> None:
    """By the kind, by a card's UUID, or by its place; another device would be the first choice."""
    async with bench(folder, model("a", 4, device=pin), devices=devices) as b:
        await b.until(lambda: b.slot("a").ready)
        assert b.slot("a").device == device


async def test_a_reload_takes_an_orphan_back(folder: Path) -> None:
    """Within the grace, as it runs: the mistake in the configuration cost nothing, and the grace's end does nothing."""
    engine = ScriptedEngine([Life()])
    name = slot_name("a", 0)
    spec = RunnerSpec(name, "a", "a", "synthetic", "cpu/0", folder / name)
    spec.folder.mkdir()
    engine.left.append(await engine.start(spec))
    async with bench(folder, model("b"), engine=engine, orphan_s=0.1) as b:
        await b.until(lambda: len(b.ready) == 1)
        b.keeper.apply([model("a"), model("b")])
        await b.until(lambda: b.slot("a").ready)
        assert b.supervisor("a").adopted
        await asyncio.sleep(0.2)  # the grace itself
        assert (engine.stops, b.slot("a").ready) == ([], True)


async def test_a_lost_device_is_left(folder: Path) -> None:
    """Its models go where there is room, or wait in quarantine with the reason, until a device is back."""
    async with bench(folder, model("a", 20), model("b", 4), devices=CARDS) as b:
        await b.until(lambda: len(b.ready) == 2)
        b.keeper.fault("GPU-1", "XID 79: fell off the bus", fatal=True)
        await b.until(lambda: len(b.ready) == 3)
        assert (b.slot("a").device, b.slot("b").device) == ("cuda:0", "cuda:0")
        b.keeper.fault("GPU-0", "XID 79: fell off the bus", fatal=True)
        await b.until(lambda: all(keeper.state is S.QUARANTINED for keeper in b.keeper.supervisors.values()))
        await b.until(lambda: "XID 79" in b.supervisor("a").reason)
        b.keeper.back("GPU-1")
        await b.until(lambda: len(b.ready) == 5)
        assert (b.slot("a").device, b.slot("b").device) == ("cuda:1", "cuda:1")


async def test_a_device_fault_starts_its_runners_anew(folder: Path) -> None:
    """Once or twice; too many in a while are a quarantine, which ends by itself or by the operator's word."""
    async with bench(folder, model("a"), devices=CARDS[:1], quarantine_faults=3, quarantine_s=100) as b:
        for starts in (2, 3):
            await b.until(lambda: b.slot("a").ready)
            b.keeper.fault("GPU-0", "XID 13: a kernel faulted", fatal=False)
            await b.until(lambda wanted=starts: b.engine.starts == wanted)
        await b.until(lambda: b.slot("a").ready)
        assert b.keeper.restarts["a", supervisor.End.DEVICE] == 2
        b.keeper.fault("GPU-0", "XID 13: a kernel faulted", fatal=False)
        await b.until(lambda: b.supervisor("a").state is S.QUARANTINED)
        b.later(50)
        assert b.slot("a").device is None
        b.later(51)
        await b.until(lambda: b.slot("a").ready)
        for _ in range(3):
            b.keeper.fault("GPU-0", "XID 13: a kernel faulted", fatal=False)
        await b.until(lambda: b.supervisor("a").state is S.QUARANTINED)
        b.keeper.resume()
        await b.until(lambda: b.slot("a").ready)


async def test_a_runner_that_the_kernel_kills_again_and_again_is_quarantined(folder: Path) -> None:
    """After so many kills it rests, longer than any pause, with the reason; then it is tried again."""
    lives = (*[Life(health=[{"state": "LOADING"}], exit_code=-9)] * 3, Life())
    async with bench(folder, model("a"), lives=lives, quarantine_faults=3, quarantine_s=100) as b:
        await b.until(lambda: b.supervisor("a").state is S.QUARANTINED)
        assert (b.engine.starts, "signal 9" in b.supervisor("a").reason) == (3, True)
        b.later(101)
        await b.until(lambda: b.slot("a").ready)


async def test_models_come_and_go(folder: Path) -> None:
    """A new one is started, one that is no more ends after its job, and the others do not notice."""
    async with bench(folder, model("a"), model("b")) as b:
        await b.until(lambda: len(b.ready) == 2)
        running, waiting = b.ask("b"), b.ask("b")
        b.keeper.apply([model("a"), model("c", replicas=2)])
        with pytest.raises(TransientError, match="not served here any more"):
            await waiting.granted
        await b.until(lambda: len(b.ready) == 4)
        assert b.slot("b").holder is running
        b.table.withdraw(waiting)
        b.table.withdraw(running)
        await b.until(lambda: {slot.model for slot in b.table.slots} == {"a", "c"})
        assert b.engine.stops == ["2"]
        assert (b.keeper.cold_starts["a"], b.keeper.restarts.total()) == (1, 0)
        b.keeper.apply([model("a"), model("c")])
        await b.until(lambda: len(b.table.slots) == 2)


async def test_a_model_with_other_settings_is_replaced_after_its_job(folder: Path) -> None:
    """The runner that has a job finishes it; then another one with the new settings comes."""
    async with bench(folder, model("a")) as b:
        await b.until(lambda: b.slot("a").ready)
        running = b.ask("a")
        b.keeper.apply([model("a", flags={"png_level": "9"}, queue=1)])
        await asyncio.sleep(0.02)
        assert (b.engine.starts, b.slot("a").holder) == (1, running)
        b.table.withdraw(running)
        await b.until(lambda: b.engine.starts == 2 and b.slot("a").ready)
        b.keeper.apply([model("a", flags={"png_level": "9"}, queue=5)])
        await asyncio.sleep(0.02)
        assert b.engine.starts == 2, "another queue needs no other runner"


async def test_a_load_is_visible(folder: Path) -> None:
    """How long it has taken and will take, for those who wait; none once a runner is ready."""
    async with bench(folder, model("a", warm=False), lives=(Life(health=[{"state": "LOADING"}]),)) as b:
        await b.until(lambda: b.supervisor("a").state is S.LOADING)
        b.now[0] += 5
        assert b.keeper.loading("a") == (5.0, b.keeper.load_s("a"))
        assert b.keeper.load_s("a") > 0
        assert b.keeper.loading("nobody") is None
    async with bench(folder, model("a", warm=False)) as b:
        await b.until(lambda: b.slot("a").ready)
        assert b.keeper.loading("a") is None


async def test_a_model_is_looked_at_though_others_hold_the_memory(folder: Path) -> None:
    """Or it could never be offered: an idle model on demand gives way for that, once; one that cannot load does not
    ask again."""
    a, z = model("a", 20, warm=False), model("z", 20, warm=False)
    lives = (Life(), Life(health=[{"state": "SETUP_FAILED", "reason": "torn"}]), Life())
    async with bench(folder, a, z, lives=lives) as b:
        await b.until(lambda: b.slot("a").ready)
        b.later(61)
        await b.until(lambda: b.supervisor("z").restarts == 1)
        assert b.slot("a").device is None
        await b.until(lambda: b.slot("z").ready)
        b.later(61)
        await b.until(lambda: b.shelf.knows(z))
        await asyncio.sleep(0.05)
        assert b.slot("z").ready, "nothing asks for the other"


async def test_jobs_do_not_wait_for_a_load_that_failed(folder: Path) -> None:
    """They fail with the reason, for another node may have the model; a replica that is there keeps them."""
    broken = Life(health=[{"state": "SETUP_FAILED", "reason": "torn"}])
    async with bench(folder, model("a"), lives=(broken,)) as b:
        job = b.ask("a")
        with pytest.raises(NodeError, match="a could not be loaded: torn"):
            await job.granted
        b.table.withdraw(job)
    async with bench(folder, model("a", replicas=2), lives=(Life(), broken), devices=CARDS) as b:
        await b.until(lambda: b.keeper.restarts.total() > 0 and len(b.ready) == 1)
        first, second = b.ask("a"), b.ask("a")
        await b.until(lambda: b.keeper.restarts.total() > 3)
        assert first.granted.result().ready
        assert not second.granted.done()
        b.table.withdraw(first)
        await b.until(lambda: second.granted.done())


async def test_an_engine_that_is_away_is_no_fault_of_the_node(folder: Path) -> None:
    """It comes back: the jobs may, too."""
    async with bench(folder, model("a"), lives=(Life(start_error="no Docker engine answers"),)) as b:
        job = b.ask("a")
        with pytest.raises(TransientError, match="no Docker engine"):
            await job.granted
        b.table.withdraw(job)


async def test_jobs_do_not_wait_for_a_quarantine(folder: Path) -> None:
    """What waits fails, and what comes is told how long the rest is."""
    async with bench(folder, model("a"), lives=(Life(),), quarantine_faults=1, quarantine_s=100) as b:
        await b.until(lambda: b.slot("a").ready)
        running, waiting = b.ask("a"), b.ask("a")
        b.engine.kill(-9)
        with pytest.raises(NodeError, match=r"in quarantine here: the runner ended \(killed by signal 9"):
            await waiting.granted
        b.table.withdraw(running)
        b.table.withdraw(waiting)
        await b.until(lambda: b.supervisor("a").state is S.QUARANTINED)
        assert b.keeper.load_left_s("a") == pytest.approx(100 + b.keeper.load_s("a"))
        b.keeper.resume()
        assert b.keeper.load_left_s("a") == pytest.approx(b.keeper.load_s("a"))


async def test_jobs_do_not_wait_for_the_last_device(folder: Path) -> None:
    """Where there is another one they do."""
    async with bench(folder, model("a"), devices=CARDS, lives=(Life(), Life(health=[{"state": "LOADING"}]))) as b:
        await b.until(lambda: b.slot("a").ready)
        held, waiting = b.ask("a"), b.ask("a")
        b.keeper.fault(f"GPU-{b.slot('a').device[-1]}", "XID 79", fatal=True)  # type: ignore[index]
        await b.until(lambda: b.supervisor("a").state is S.LOADING)
        assert not waiting.granted.done()
        b.keeper.fault(f"GPU-{b.slot('a').device[-1]}", "XID 79", fatal=True)  # type: ignore[index]
        with pytest.raises(NodeError, match="XID 79"):
            await waiting.granted
        assert b.keeper.load_left_s("a") >= b.around.limits.quarantine_s
        b.table.withdraw(held)


async def test_what_is_left_of_a_load(folder: Path) -> None:
    """The estimate, less what it has taken, and never below 0."""
    async with bench(folder, model("a", warm=False), lives=(Life(health=[{"state": "LOADING"}]),)) as b:
        await b.until(lambda: b.supervisor("a").state is S.LOADING)
        whole = b.keeper.load_s("a")
        b.now[0] += whole / 4
        assert b.keeper.load_left_s("a") == pytest.approx(whole * 3 / 4)
        b.now[0] += whole * 2
        assert b.keeper.load_left_s("a") == 0


async def test_a_slot_that_cannot_be_prepared_takes_nothing_down(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder or its weights are not there: it says so and waits; the others work, and so does it later."""
    missing = ["b"]
    async with bench(folder, model("a"), model("b"), run=False) as b:
        inner = b.keeper._make_spec

        def make(model: ModelSettings, slot: str, device: Device) -> RunnerSpec:
            if model.model_id in missing:
                raise StartError("the weights are gone")
            return inner(model, slot, device)

        monkeypatch.setattr(b.keeper, "_make_spec", make)
        b.task = asyncio.create_task(b.keeper.run())
        await b.until(lambda: b.slot("a").ready and b.supervisor("b").reason == "the weights are gone")
        assert b.supervisor("b").state is S.STOPPED
        missing.clear()
        await b.until(lambda: b.slot("b").ready)
        missing.append("b")
        b.keeper.apply([model("a"), model("b", flags={"png_level": "9"})])
        await b.until(lambda: b.supervisor("b").reason == "the weights are gone")
        assert b.slot("a").ready
