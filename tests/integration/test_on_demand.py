"""Models that are loaded when a job asks for them: offered from what an earlier start has learned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine import RunnerSpec
from orchestrator.supervisor import End
from reelnet.host_memory import host_memory_bytes
from runner.app import make_backend
from runner.backend import Backend
from runner.settings import RunnerSettings
from tests.fakes.pool import (
    InProcessEngine,
    Pool,
    PoolPlan,
    node_settings,
    running_node,
    running_pool,
    sse_events,
    until,
)
from tests.fakes.runner import BrokenBackend

SMALL = {"prompt": "a boat", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}
LOAD_S = 1.2
BARS, OTHER = "synthetic/bars", "synthetic/other"
LIMITS = {"restart_backoff_s": 0.05, "restart_backoff_max_s": 0.1, "progress_s": 0.05}


def on_demand(model: str = BARS, load_s: float = LOAD_S, **more: Any) -> dict[str, Any]:
    """A model that is loaded for a job, and can leave again at once."""
    return {"model": model, "warm": False, "min_stay_s": 0, "backend": {"synthetic": {"load_s": load_s}}, **more}


def plan(home: Path, *models: dict[str, Any], nodes: int = 1, **broadcaster: Any) -> PoolPlan:
    """Nodes of these models, with runners in this process."""
    engines = [InProcessEngine() for _ in range(nodes)]
    return PoolPlan(home, list(engines), list(models), {"limits": LIMITS}, broadcaster)


async def look_at(made: PoolPlan) -> None:
    """An earlier start of the nodes, which learns what their models are."""
    for index in range(len(made.engines)):
        facts = made.home / "orchestrator" / f"node-{index + 1}" / "models.json"
        async with running_node(node_settings(made, index), InProcessEngine()):
            await until(lambda facts=facts: known(facts) == len(made.models), "each is known")


def known(facts: Path) -> int:
    """How many models a node has written down."""
    return facts.read_text().count('"digest"') if facts.exists() else 0


@asynccontextmanager
async def cold_pool(made: PoolPlan) -> AsyncIterator[Pool]:
    """A pool whose nodes were here before, and have nothing loaded."""
    await look_at(made)
    async with running_pool(made) as pool:
        assert not any(slot.device for running in pool.nodes for slot in running.node.table.slots)
        yield pool


async def events(pool: Pool, model: str = BARS) -> list[tuple[str, dict[str, Any]]]:
    """What an app hears that asks for a job's events."""
    asked = {**SMALL, "model_id": model}
    answer = await pool.http.post("/text-to-image", json=asked, headers={"accept": "text/event-stream"})
    return sse_events(answer.text)


async def draw(pool: Pool, model: str = BARS) -> Any:
    """A small picture."""
    return await pool.job("text-to-image", {**SMALL, "model_id": model})


async def test_a_cold_model_is_loaded_for_a_job(tmp_path: Path) -> None:
    """The app hears how long it will take, how far the load is, and that it was one; the next job needs none."""
    async with cold_pool(plan(tmp_path, on_demand())) as pool:
        told = await events(pool)
        names = [name for name, _ in told]
        assert (names[0], names[1], names[-1]) == ("job", "queued", "result"), told
        assert told[1][1]["eta_s"] >= LOAD_S, "it contains the load"
        assert told[1][1]["position"] == 0
        begun = names.index("started")
        loads = [data for name, data in told[:begun] if name == "progress"]
        assert loads, "before the start there is the load"
        assert all(load == {"stage": "load", "step": load["step"], "total": load["total"]} for load in loads)
        assert [load["step"] for load in loads] == sorted({load["step"] for load in loads})
        assert loads[0]["total"] == 2, "seconds"
        assert told[begun][1] == {"cold": True}
        stages = {data["stage"] for name, data in told[begun:] if name == "progress"}
        assert "load" not in stages
        node = pool.nodes[0].node
        assert node.keeper.cold_starts == {BARS: 1}

        again = await events(pool)
        assert ("started", {"cold": False}) in again
        assert not [data for name, data in again if name == "progress" and data["stage"] == "load"]
        assert again[1][1].get("eta_s", 0.0) < LOAD_S
        assert node.keeper.cold_starts == {BARS: 1}


async def test_the_time_of_a_load_is_no_time_of_the_work(tmp_path: Path) -> None:
    """A broadcaster counts it as waiting: a node's measured speed is that of its device."""
    async with cold_pool(plan(tmp_path, on_demand())) as pool:
        job = (await draw(pool)).json()["job"]
        assert job["timings_s"]["queue"] >= LOAD_S - 0.2
        assert job["timings_s"]["node_run"] < LOAD_S


async def test_models_that_do_not_fit_together_take_turns(tmp_path: Path) -> None:
    """Each gives way to the other while jobs of both come; no job is lost, and they are never there at once."""
    need = int((host_memory_bytes() or 2**34) * 0.6)
    models = [on_demand(name, 0.05, memory_bytes=need) for name in (BARS, OTHER)]
    async with cold_pool(plan(tmp_path, *models)) as pool:
        node = pool.nodes[0].node
        together = 0

        async def client(model: str) -> list[int]:
            nonlocal together
            codes = []
            for _ in range(4):
                codes.append((await draw(pool, model)).status_code)
                together = max(together, sum(1 for slot in node.table.slots if slot.ready))
            return codes

        done = await asyncio.gather(*(client(model) for model in (BARS, OTHER, BARS, OTHER)))
        assert done == [[200] * 4] * 4
        assert together == 1
        assert node.keeper.cold_starts[BARS] >= 1
        assert node.keeper.cold_starts[OTHER] >= 1
        assert node.keeper.restarts.total() == 0, "to leave is no failure"
        (await draw(pool, BARS)).raise_for_status()
        (await draw(pool, OTHER)).raise_for_status()


class Broken:
    """An engine's backends, which cannot be loaded until they are mended."""

    def __init__(self) -> None:
        self.mended = False
        self.engine = InProcessEngine(backend=self._make)

    def _make(self, spec: RunnerSpec, settings: RunnerSettings) -> Backend:
        return make_backend(settings) if self.mended else BrokenBackend(load=RuntimeError("the weights are torn"))


async def test_a_job_does_not_wait_for_a_model_that_fails_to_load(tmp_path: Path) -> None:
    """Where there is no other node it ends with that reason; the node tries on, and serves once it can."""
    broken = Broken()
    made = plan(tmp_path, on_demand())
    made.engines[0] = broken.engine
    async with cold_pool(made) as pool:
        answer = await draw(pool)
        assert (answer.status_code, answer.json()["error"]["class"]) == (500, "node"), answer.text
        assert "could not be loaded" in answer.text
        assert "the weights are torn" in answer.text
        (slot,) = pool.nodes[0].control.status().slots
        assert "the weights are torn" in slot.reason
        assert pool.nodes[0].node.keeper.restarts[BARS, End.LOAD] >= 1
        broken.mended = True
        await until(lambda: pool.slot().ready, "it is tried again")
        assert (await draw(pool)).status_code == 200


async def test_a_job_goes_to_another_node_when_a_load_fails(tmp_path: Path) -> None:
    """The app does not notice; the node that offered the model in vain is blamed."""
    broken = Broken()
    made = plan(tmp_path, on_demand(), nodes=2)
    made.engines[0] = broken.engine
    async with cold_pool(made) as pool:
        first, second = (running.node for running in pool.nodes)
        place = second.table.reserve(BARS, 60.0)  # it looks crowded, so that the other one is asked first

        def waits() -> float:
            load = pool.broadcaster.registry.record(second.id).loads.get(("text-to-image", BARS))
            return load.wait_s if load else 0.0

        await until(lambda: waits() >= 60, "the broadcaster knows")
        answer = await draw(pool)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["job"]["node"], answer.json()["job"]["attempts"]) == (second.id, 2)
        second.table.withdraw(place)
        scores = pool.broadcaster.scores
        assert scores.reputation(first.id) < scores.reputation(second.id) == 1


async def test_a_job_that_could_not_wait_for_the_load_is_refused(tmp_path: Path) -> None:
    """At once, with the time that it would take."""
    made = plan(tmp_path, on_demand(load_s=3), limits={"deadline_s": {"text-to-image": 2}})
    async with cold_pool(made) as pool:
        async with asyncio.timeout(1.5):
            answer = await draw(pool)
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) >= 3
        assert not pool.nodes[0].node.attempts()


@pytest.mark.parametrize("warm_one", [0, 1])
async def test_a_warm_node_is_asked_first(tmp_path: Path, warm_one: int) -> None:
    """Whichever it is: a load costs more than any other difference between idle nodes."""
    made = plan(tmp_path, on_demand(), nodes=2)
    async with cold_pool(made) as pool:
        node = pool.nodes[warm_one].node
        node.apply(replace_models(node.settings, warm=True))
        await until(lambda: pool.slot(warm_one).ready, "it is there")
        known = pool.broadcaster.registry
        await until(
            lambda: any(m.warm for r in known.nodes() if r.node_id == node.id for m in r.load.models), "that is known"
        )
        for _ in range(5):
            assert (await draw(pool)).json()["job"]["node"] == node.id


def replace_models(settings: Any, **changes: Any) -> Any:
    """The settings, with other models."""
    models = tuple(model.model_copy(update=changes) for model in settings.models)
    return settings.model_copy(update={"models": models})
