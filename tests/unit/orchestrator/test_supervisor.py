"""Keeping one slot's runner alive."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator import supervisor as module
from orchestrator.engine import RunnerExit, RunnerHandle, RunnerSpec
from orchestrator.runner_answers import RunnerInfo
from orchestrator.runner_state import RunnerState
from orchestrator.settings import Limits
from orchestrator.slots import Slot, SlotTable
from orchestrator.supervisor import End, Post, Supervisor, Surroundings
from tests.fakes.engine import INFO, Life, ScriptedEngine

PATIENCE_S = 20.0
S = RunnerState


@dataclass
class Watched:
    """A supervisor at work, and what it told."""

    supervisor: Supervisor
    engine: ScriptedEngine
    table: SlotTable
    task: asyncio.Task[None]
    infos: list[RunnerInfo]
    folder: Path
    loads: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    @property
    def spec(self) -> RunnerSpec:
        return RunnerSpec("slot", "m", "m", "synthetic", "cpu/0", self.folder)

    def put(self, running: RunnerHandle | None = None) -> None:
        """The keeper's word: the runner has a device."""
        self.supervisor.put("cpu/0", Post(self.spec, running))

    @property
    def slot(self) -> Slot:
        return self.table.slots[0]

    async def until(self, so: Callable[[], bool]) -> None:
        """Until something is so; fails with the supervisor when that ends."""
        async with asyncio.timeout(PATIENCE_S):
            while not so():  # what is waited for has no event of its own
                if self.task.done():
                    await self.task
                    raise AssertionError("the supervisor ended")
                await asyncio.sleep(0.002)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a Unix socket lies in it."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The failures in a row that each pause was asked for; the pauses themselves take no time."""
    asked: list[int] = []

    def short(failures: int, *_: float) -> float:
        asked.append(failures)
        return 0.0

    monkeypatch.setattr(module, "backoff_s", short)
    monkeypatch.setattr(module, "READY_POLL_S", 0.002)
    monkeypatch.setattr(module, "LAST_WORD_S", 0.01)
    return asked


@asynccontextmanager
async def watching(folder: Path, *lives: Life, put: bool = True, **limits: Any) -> AsyncIterator[Watched]:
    """A supervisor of one slot, for the length of the block."""
    slot = Slot("slot", "m", None)
    table = SlotTable([slot], {"m": 8}, lambda: 0.0)
    engine = ScriptedEngine(lives)
    infos: list[RunnerInfo] = []
    around = Surroundings(engine, table, Limits(**limits), random.Random(1), lambda slot, info: infos.append(info))
    supervisor = Supervisor(slot, around)
    watched = Watched(supervisor, engine, table, asyncio.create_task(supervisor.run()), infos, folder)
    around.on_load = lambda slot, seconds: watched.loads.append(seconds)
    around.on_memory = lambda slot, size: watched.memory.append(size)
    around.on_end = lambda slot, ended: watched.ends.append(ended.kind)
    around.on_gone = lambda slot: watched.gone.append(slot.name)
    if put:
        watched.put()
    task = watched.task
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.wait((task,))
        await engine.close()


async def test_a_ready_runner_makes_its_slot_ready(folder: Path, pauses: list[int]) -> None:
    """Through STARTING and LOADING to READY; who serves what is told before any job can be given."""
    life = Life(health=[{"state": "STARTING"}, {"state": "LOADING"}, {"state": "LOADING"}, {"state": "READY"}])
    async with watching(folder, life) as w:
        assert not w.slot.ready
        await w.until(lambda: w.supervisor.state is S.LOADING)
        assert not w.slot.ready
        await w.until(lambda: w.slot.ready)
        assert (w.supervisor.state, w.supervisor.reason, w.supervisor.restarts) == (S.READY, "", 0)
        assert [(i.digest, i.schemas, i.memory_bytes) for i in w.infos] == [
            (INFO["digest"], {"text-to-image": "text-to-image/sd@1"}, 8)
        ]


async def test_a_runner_that_fails_is_started_for_ever(folder: Path, pauses: list[int]) -> None:
    """Each failure in a row asks for a longer pause, and there is no last try."""
    lives = [Life(start_error="no room")] * 12 + [Life()]
    async with watching(folder, *lives) as w:
        await w.until(lambda: w.slot.ready)
        assert pauses == list(range(1, 13))
        assert w.supervisor.restarts == 12


async def test_a_runner_that_was_ready_begins_anew(folder: Path, pauses: list[int]) -> None:
    """Having been ready ends the row of failures: its next pause is a first one again."""
    lives = [Life(start_error="no room"), Life(start_error="no room"), Life()]
    async with watching(folder, *lives) as w:
        for restarts in (2, 3):
            await w.until(lambda wanted=restarts: w.slot.ready and w.supervisor.restarts == wanted)
            w.engine.kill(1)
        await w.until(lambda: w.slot.ready and w.supervisor.restarts == 4)
        assert pauses == [1, 2, 1, 1]


@pytest.mark.parametrize(
    ("life", "reason"),
    [
        (Life(start_error="docker is not there"), "docker is not there"),
        (Life(health=[{"state": "SETUP_FAILED", "reason": "no such model"}]), "no such model"),
        (Life(health=[{"state": "DEFUNCT"}]), "DEFUNCT"),
        (Life(health=[{"state": "LOADING"}], exit_code=2, tail="a\nb\nc\nd\ne\nf"), "exit code 2): b | c | d | e | f"),
        (Life(health=[{"state": "LOADING"}], exit_code=-9), "killed by signal 9)"),
        (Life(health=[{"state": "LOADING"}]), "not loaded within 0.2 s"),
    ],
)  # fmt: skip
async def test_the_reason_of_a_failure_is_kept(folder: Path, life: Life, reason: str, pauses: list[int]) -> None:
    """An operator reads why a runner does not come up, also while the next one starts; its slot is never ready."""
    async with watching(folder, life, load_s=0.2) as w:
        await w.until(lambda: w.supervisor.restarts >= 2)
        assert reason in w.supervisor.reason
        assert not w.slot.ready
        assert w.infos == []


async def test_restart_takes_the_slot_out_at_once(folder: Path, pauses: list[int]) -> None:
    """From the call on no job gets the runner: it is stopped, and another one is started."""
    async with watching(folder, Life()) as w:
        await w.until(lambda: w.slot.ready)
        assert w.engine.alive == {"1"}
        w.supervisor.restart("a job did not stop")
        assert not w.slot.ready
        assert w.table.free("m") == 0
        w.supervisor.restart("asked twice")
        await w.until(lambda: w.slot.ready)
        assert w.engine.stops == ["1"]
        assert w.engine.alive == {"2"}
        assert w.supervisor.restarts == 1


async def test_a_restart_has_its_reason(folder: Path, pauses: list[int]) -> None:
    """The first one that was given, until the next runner is ready."""
    async with watching(folder, Life(), Life(health=[{"state": "LOADING"}])) as w:
        await w.until(lambda: w.slot.ready)
        w.supervisor.restart("a job did not stop")
        w.supervisor.restart("asked twice")
        await w.until(lambda: w.supervisor.state is S.LOADING)
        assert w.supervisor.reason == "a job did not stop"


async def test_a_runner_that_dies_of_its_job_is_no_stuck_one(folder: Path, pauses: list[int]) -> None:
    """Its job notices first and gives it up; how it ended is told all the same, as faults of the kernel are counted."""
    async with watching(folder, Life()) as w:
        await w.until(lambda: w.slot.ready)
        w.supervisor.restart("a job did not stop")
        await asyncio.sleep(0)
        w.engine.kill(-9)
        await w.until(lambda: bool(w.ends))
        assert w.ends == [End.KILLED]


@pytest.mark.parametrize("health", [{"state": "DEFUNCT", "reason": "XID 79"}, "no object", []])
async def test_a_ready_runner_that_goes_bad_is_replaced(
    folder: Path, health: object, pauses: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state other than READY or BUSY, or an answer that is none, costs the runner its slot, never the node."""
    monkeypatch.setattr(module, "HEALTH_POLL_S", 0.01)
    async with watching(folder, Life(health=[{"state": "READY"}, health]), Life()) as w:
        await w.until(lambda: w.supervisor.restarts == 1 and w.slot.ready)
        assert w.engine.alive == {"2"}


@pytest.mark.parametrize(
    "life",
    [Life(info_status=500), Life(info={}), Life(info=[]), Life(info={**INFO, "vram_bytes": "much"})],
    ids=["fails", "is empty", "is a list", "is no number"],
)
async def test_a_runner_that_cannot_say_what_it_serves_is_replaced(folder: Path, life: Life, pauses: list[int]) -> None:
    """A runner that breaks between READY and /info is that slot's failure: it does not end the node."""
    async with watching(folder, life, Life()) as w:
        await w.until(lambda: w.slot.ready)
        assert w.supervisor.restarts == 1


async def test_an_unknown_state_is_waited_for(folder: Path, pauses: list[int]) -> None:
    """A later runner may have states that this node does not know."""
    async with watching(folder, Life(health=[{"state": "WARMING"}, {}, {"state": "READY"}])) as w:
        await w.until(lambda: w.slot.ready)
        assert w.supervisor.restarts == 0


async def test_busy_follows_the_nodes_word(folder: Path, pauses: list[int]) -> None:
    """BUSY while a job holds the runner; a word that comes after its end changes nothing."""
    async with watching(folder, Life(), Life(start_error="later")) as w:
        await w.until(lambda: w.slot.ready)
        w.supervisor.busy(True)
        assert w.supervisor.state is S.BUSY
        w.supervisor.busy(False)
        assert w.supervisor.state is S.READY
        w.supervisor.busy(True)
        w.engine.kill(1)
        await w.until(lambda: w.supervisor.state not in (S.READY, S.BUSY))
        before = w.supervisor.state
        w.supervisor.busy(False)
        assert w.supervisor.state is before


@pytest.mark.parametrize("life", [Life(), Life(health=[{"state": "LOADING"}])], ids=["ready", "loading"])
async def test_a_cancel_stops_the_runner(folder: Path, life: Life, pauses: list[int]) -> None:
    """The node's end is the runner's: it is stopped, its slot is taken out, and nothing is started again."""
    async with watching(folder, life) as w:
        await w.until(lambda: w.supervisor.state in (S.READY, S.LOADING))
        w.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await w.task
        assert w.engine.alive == set()
        assert not w.slot.ready
        assert w.engine.starts == 1
        assert w.supervisor.client is None
        assert w.supervisor.state is S.STOPPED


async def test_a_runner_that_is_taken_leaves_its_device(folder: Path, pauses: list[int]) -> None:
    """It is stopped, no failure is counted, and it waits; put again, it starts again."""
    async with watching(folder, Life()) as w:
        await w.until(lambda: w.slot.ready)
        w.supervisor.take("another model needs the room")
        assert not w.slot.ready
        await w.until(lambda: w.gone == ["slot"])
        assert (w.supervisor.state, w.slot.device, w.engine.alive) == (S.STOPPED, None, set())
        assert w.supervisor.reason == "another model needs the room"
        w.put()
        await w.until(lambda: w.slot.ready)
        assert (w.supervisor.restarts, w.slot.device, w.ends) == (0, "cpu/0", [])


async def test_a_runner_that_is_put_again_before_it_has_left_starts_anew(folder: Path, pauses: list[int]) -> None:
    """The keeper may change its mind while the runner stops: its supervisor goes on, and nothing counts as failed."""
    async with watching(folder, Life()) as w:
        await w.until(lambda: w.slot.ready)
        stop, stops, may_stop = w.engine.stop, asyncio.Event(), asyncio.Event()

        async def slow(handle: RunnerHandle, grace_s: float) -> None:
            stops.set()
            await may_stop.wait()
            await stop(handle, grace_s)

        w.engine.stop = slow  # type: ignore[method-assign]
        w.supervisor.take("another model needs the room", quarantine=True)
        await stops.wait()
        w.put()
        may_stop.set()
        await w.until(lambda: w.slot.ready)
        assert (w.engine.starts, w.engine.alive, w.slot.device) == (2, {"2"}, "cpu/0")
        assert (w.supervisor.restarts, w.ends, w.gone) == (0, [], ["slot"])


async def test_a_runner_that_is_taken_before_it_was_started_is_gone(folder: Path, pauses: list[int]) -> None:
    """In the same moment as it was put: its device is free again, and who waits for that hears it."""
    async with watching(folder, Life(), put=False) as w:
        w.put()
        w.supervisor.take("the device is broken", quarantine=True)
        await w.until(lambda: w.gone == ["slot"])
        assert (w.supervisor.state, w.slot.device, w.engine.starts) == (S.QUARANTINED, None, 0)
        w.put()
        await w.until(lambda: w.slot.ready)


async def test_a_pause_ends_when_the_runner_is_taken(folder: Path) -> None:
    """Nobody waits for a backoff of a runner that is not wanted here any more."""
    async with watching(folder, Life(start_error="no room"), restart_backoff_s=900, restart_backoff_max_s=900) as w:
        await w.until(lambda: w.supervisor.state is S.BACKOFF)
        w.supervisor.take("broken", quarantine=True)
        await w.until(lambda: w.supervisor.state is S.QUARANTINED)
        assert (w.gone, w.slot.device) == (["slot"], None)


async def test_a_runner_is_taken_while_it_starts(folder: Path, pauses: list[int]) -> None:
    """Before it is ready, and with an engine that then fails: it is gone either way, and nothing counts as failed."""
    lives = [Life(health=[{"state": "LOADING"}]), Life(start_error="no room")]
    async with watching(folder, *lives) as w:
        await w.until(lambda: w.supervisor.state is S.LOADING)
        w.supervisor.take("first")
        await w.until(lambda: len(w.gone) == 1)
        w.put()
        await w.until(lambda: w.engine.starts >= 2)
        w.supervisor.take("second")
        await w.until(lambda: len(w.gone) == 2)
        assert (w.engine.alive, w.slot.device) == (set(), None)


async def test_a_runner_of_an_earlier_start_is_adopted(folder: Path, pauses: list[int]) -> None:
    """It goes on as it is: nothing is started, and nothing was loaded."""
    async with watching(folder, Life(), put=False) as w:
        w.put(await w.engine.start(w.spec))
        await w.until(lambda: w.slot.ready)
        assert (w.engine.starts, w.supervisor.adopted, w.loads, w.supervisor.restarts) == (1, True, [], 0)


@pytest.mark.parametrize("health", [{"state": "BUSY"}, []], ids=["keeps its job", "makes no sense"])
async def test_a_runner_that_is_not_fit_is_not_adopted(folder: Path, health: object, pauses: list[int]) -> None:
    """One that does not leave its former node's job, or does not answer, is ended, and another one is started."""
    async with watching(folder, Life(health=[health]), Life(), put=False, cancel_s=0.1) as w:
        w.put(await w.engine.start(w.spec))
        await w.until(lambda: w.slot.ready)
        assert (w.engine.starts, w.engine.alive, w.supervisor.adopted) == (2, {"2"}, False)
        assert (w.supervisor.restarts, w.ends) == (1, [End.SILENT])


async def test_a_crash_loop_is_called_one(folder: Path) -> None:
    """After so many failures in a row the reason says so, and the runner is started on and on."""
    quick = {"restart_backoff_s": 0.01, "restart_backoff_max_s": 0.05}
    async with watching(folder, *[Life(start_error="no room")] * 7, Life(), crash_loop=3, **quick) as w:
        await w.until(lambda: w.supervisor.reason == "crash loop, 4 failures in a row: no room")
        await w.until(lambda: w.slot.ready)
        assert not w.supervisor.crash_loop
        assert w.ends == [End.ENGINE] * 7


@pytest.mark.parametrize(
    ("ended", "kind", "text"),
    [
        (RunnerExit(1, "bye"), End.EXITED, "the runner ended (exit code 1): bye"),
        (RunnerExit(-9), End.KILLED, "the runner ended (killed by signal 9)"),
        (RunnerExit(-9, oom_killed=True), End.MEMORY, "the runner ended (the kernel killed it: out of host memory)"),
        (RunnerExit(-9, why="the engine stopped"), End.ENGINE, "the runner ended (the engine stopped)"),
    ],
)
def test_an_end_has_a_kind_and_a_sentence(ended: RunnerExit, kind: End, text: str) -> None:
    """The kernel's doing is told apart from the program's and from the engine's."""
    assert (module._kind(ended), module.explain(ended)) == (kind, text)


async def test_the_memory_that_a_runner_takes_is_told(folder: Path, pauses: list[int]) -> None:
    """As soon as it is ready; a runner that says nothing of it is no reason to worry."""
    async with watching(folder, Life(health=[{"state": "READY", "memory_bytes": 5 * 2**30}])) as w:
        await w.until(lambda: w.memory == [5 * 2**30])
    async with watching(folder, Life(health=[{"state": "READY", "memory_bytes": None}])) as w:
        await w.until(lambda: w.slot.ready)
        assert w.memory == []


async def test_how_a_runner_ended_says_more_than_its_silence(
    folder: Path, pauses: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine gets a moment to say it; meanwhile no job gets the runner. A true hang stays what it is."""
    monkeypatch.setattr(module, "LAST_WORD_S", PATIENCE_S)
    async with watching(folder, Life(tail="bus error")) as w:
        await w.until(lambda: w.slot.ready)
        w.supervisor.restart("a job did not stop")
        assert not w.slot.ready
        w.engine.kill(-9)
        await w.until(lambda: w.slot.ready)
        monkeypatch.setattr(module, "LAST_WORD_S", 0.01)
        w.supervisor.restart("a job did not stop")
        await w.until(lambda: len(w.ends) == 2)
        assert w.ends == [End.KILLED, End.STUCK]


async def test_the_kernels_word_is_not_the_engines(folder: Path) -> None:
    """A runner that was killed for its memory counts as that, though its engine explains it."""
    explained = RunnerExit(-9, oom_killed=True, why="the kernel killed it at its bound of 1 GiB; raise `memory_bytes`")
    assert module._kind(explained) is End.MEMORY
    assert "raise `memory_bytes`" in module.explain(explained)
    assert module._kind(RunnerExit(-9, why="the Docker engine stopped")) is End.ENGINE
    assert [module._kind(RunnerExit(code)) for code in (-9, 1, 0)] == [End.KILLED, End.EXITED, End.EXITED]


async def test_a_life_says_whether_it_was_ever_ready(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a pause when it is over: who waits for the model wants to know."""
    monkeypatch.setattr(module, "READY_POLL_S", 0.002)
    async with watching(folder, Life(), Life(health=[{"state": "LOADING"}], exit_code=1), restart_backoff_s=0.05) as w:
        await w.until(lambda: w.slot.ready)
        assert w.supervisor.loaded
        before = w.supervisor.began
        w.engine.kill(1)
        await w.until(lambda: w.supervisor.state is S.BACKOFF)
        assert w.supervisor.again_at > before
        await w.until(lambda: w.supervisor.restarts == 2)
        assert not w.supervisor.loaded
        assert w.supervisor.began > before


@pytest.mark.parametrize(
    ("info", "field"),
    [
        ({"lora_digests": []}, "lora_digests"),
        ({"vram_bytes": -5}, "vram_bytes"),
        ({"digest": "x" * 2_000_000}, "/info"),
    ],
)
async def test_a_runner_that_says_nonsense_is_started_anew(
    folder: Path, pauses: list[int], info: dict[str, Any], field: str
) -> None:
    """With backoff and a reason that names the field; the next one may be better."""
    async with watching(folder, Life(info=INFO | info), Life(info=INFO | info), Life()) as w:
        await w.until(lambda: bool(pauses))
        assert field in w.supervisor.reason
        await w.until(lambda: w.slot.ready)
        assert (pauses, w.ends) == ([1, 2], [End.SILENT] * 2)


@pytest.mark.parametrize("name", ["on_ready", "on_load", "on_memory", "on_end", "on_gone"])
async def test_a_fault_in_who_hears_of_a_runner_does_not_end_its_watch(
    folder: Path, pauses: list[int], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is logged, and the runner is kept: started anew where it was not taken in."""
    life = Life(health=[{"state": "READY", "memory_bytes": 5}])
    async with watching(folder, life) as w:
        around, faults = w.supervisor._around, iter([True])
        heard = getattr(around, name)

        def hear(*said: Any) -> None:
            if next(faults, False):
                raise RuntimeError("a fault of the node's")
            heard(*said)

        setattr(around, name, hear)
        await w.until(lambda: w.slot.ready)
        if name == "on_gone":
            w.supervisor.take("away")
            await w.until(lambda: w.supervisor.state is S.STOPPED)
            w.put()
            await w.until(lambda: w.slot.ready)
        elif name == "on_end":
            w.supervisor.restart("stuck")
            await w.until(lambda: w.engine.starts == 2 and w.slot.ready)
        else:
            await w.until(lambda: w.ends == [End.FAULT])
            await w.until(lambda: w.slot.ready)
        assert next(faults, None) is None
