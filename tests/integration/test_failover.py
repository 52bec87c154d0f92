"""Faults and fail-over: whose fault it is decides who is tried next and who is blamed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from broadcaster.attempt import Delivery
from orchestrator.supervisor import Supervisor
from reelnet.errors import OutOfMemoryError
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool, until
from tests.fakes.runner import BrokenBackend
from tests.integration.test_cancel import SYNTHETIC, Held, ask

SMALL = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}


def plan(home: Path, nodes: int = 2, **node: Any) -> PoolPlan:
    """Synthetic nodes whose runners tick quickly."""
    return PoolPlan(home, [InProcessEngine(runner={"tick_s": 0.1}) for _ in range(nodes)], [SYNTHETIC], node=node)


def reputations(pool: Pool) -> list[float]:
    """What the broadcaster thinks of each node."""
    return [pool.broadcaster.scores.reputation(n.node.id) for n in pool.nodes]


async def draw(pool: Pool, prompt: str) -> Any:
    """A small picture with a prompt that may hold a fault word."""
    return await pool.job("text-to-image", {**SMALL, "prompt": prompt})


async def test_a_nodes_failure_is_made_good_by_another(tmp_path: Path) -> None:
    """A job that fails on one node succeeds on the other, and only the first one is blamed."""
    async with running_pool(plan(tmp_path)) as pool:
        answer = await draw(pool, "boat !fail node once")
        assert answer.status_code == 200, answer.text
        job = answer.json()["job"]
        assert job["attempts"] == 2
        blamed = {n.node.id: pool.broadcaster.scores.reputation(n.node.id) for n in pool.nodes}
        assert blamed.pop(job["node"]) == 1
        assert all(value < 1 for value in blamed.values())


async def test_a_users_error_is_found_before_any_node_is_asked(tmp_path: Path) -> None:
    """A request that the broadcaster itself refuses costs no attempt and no node's reputation."""
    async with running_pool(plan(tmp_path)) as pool:
        answer = await pool.job("text-to-image", {**SMALL, "prompt": "boat", "num_inference_steps": 0})
        assert answer.status_code == 422
        assert reputations(pool) == [1, 1]
        assert all(not n.node.attempts() for n in pool.nodes)
        metrics = await pool.http.get(f"http://127.0.0.1:{pool.broadcaster.metrics_port}/metrics")
        assert "reelnet_attempts_total{" not in metrics.text


async def test_a_users_error_that_two_nodes_see_is_the_users(tmp_path: Path) -> None:
    """A node's word alone is a claim; a second node's makes it a 422, and neither node is blamed."""
    async with running_pool(plan(tmp_path, nodes=3)) as pool:
        answer = await draw(pool, "boat !fail user")
        assert answer.status_code == 422
        assert answer.json()["error"]["class"] == "user"
        assert reputations(pool) == [1, 1, 1]


async def test_a_false_claim_against_the_user_is_the_nodes_failure(tmp_path: Path) -> None:
    """Who said that the request was wrong is blamed when another node delivers it."""
    async with running_pool(plan(tmp_path)) as pool:
        answer = await draw(pool, "boat !fail user once")
        assert answer.status_code == 200
        assert sorted(reputations(pool))[0] < 1
        assert sorted(reputations(pool))[1] == 1


async def test_memory_is_nobodys_fault_and_does_not_walk_through_the_pool(tmp_path: Path) -> None:
    """A job that did not fit is not tried on nodes that have no more memory, and no node is blamed."""
    async with running_pool(plan(tmp_path, nodes=3)) as pool:
        answer = await draw(pool, "boat !oom")
        assert answer.status_code == 500
        assert answer.json()["error"]["class"] == "oom"
        assert reputations(pool) == [1, 1, 1]
        attempts = await pool.http.get(f"http://127.0.0.1:{pool.broadcaster.metrics_port}/metrics")
        assert 'reelnet_attempts_total{class="oom",outcome="failed",pipeline="text-to-image"} 1.0' in attempts.text


@pytest.mark.parametrize(("code", "looks"), [("estimate", 0), ("out_of_memory", 1)])
async def test_a_job_that_was_refused_for_its_size_makes_no_runner_suspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, looks: int
) -> None:
    """The node looks after its runner when memory ran out, and not when a job was refused before it was tried."""
    suspected: list[Supervisor] = []
    monkeypatch.setattr(Supervisor, "suspect", lambda supervisor: suspected.append(supervisor))
    short = BrokenBackend(run=OutOfMemoryError("too large", code=code))
    engine = InProcessEngine(backend=lambda spec, settings: short, runner={"tick_s": 0.1})
    async with running_pool(PoolPlan(tmp_path, [engine], [SYNTHETIC])) as pool:
        answer = await draw(pool, "boat")
        assert answer.json()["error"]["class"] == "oom"
        assert len(suspected) == looks


async def test_a_job_that_fails_everywhere_ends(tmp_path: Path) -> None:
    """At most three attempts end as the nodes' failure; then the job fails with the last one's reason."""
    async with running_pool(plan(tmp_path, nodes=4)) as pool:
        answer = await draw(pool, "boat !fail node")
        assert answer.status_code == 500
        metrics = await pool.http.get(f"http://127.0.0.1:{pool.broadcaster.metrics_port}/metrics")
        assert 'reelnet_attempts_total{class="node",outcome="failed",pipeline="text-to-image"} 3.0' in metrics.text


async def test_a_full_queue_says_so_at_once(tmp_path: Path) -> None:
    """With every place taken the answer is 503 with Retry-After; once there is room, jobs run again."""
    held = Held()
    model = {**SYNTHETIC, "queue": 1}
    async with running_pool(PoolPlan(tmp_path, [held.engine], [model])) as pool:
        running = asyncio.create_task(ask(pool, "text-to-image"))
        await held.until_held()
        waiting = asyncio.create_task(ask(pool, "text-to-image"))
        await until(lambda: len(pool.nodes[0].node.attempts()) == 2, "the queue is full")
        async with asyncio.timeout(10):
            refused = await ask(pool, "text-to-image")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["class"] == "busy"
        assert reputations(pool)[0] > 0.9, "a full queue is no failure"
        held.backend.let_go.set()
        assert (await running).status_code == (await waiting).status_code == 200
        assert (await ask(pool, "text-to-image")).status_code == 200


async def test_a_hung_runner_is_replaced_and_the_job_done_elsewhere(tmp_path: Path) -> None:
    """Without progress for the limit a job fails over, its runner is restarted, and the slot serves again."""
    the_plan = plan(tmp_path, limits={"stall_s": 1.0, "stop_s": 2.0, "restart_backoff_s": 0.05})
    async with running_pool(the_plan) as pool:
        answer = await draw(pool, "boat !hang once")
        assert answer.status_code == 200, answer.text
        assert answer.json()["job"]["attempts"] == 2
        await until(lambda: all(s.ready for n in pool.nodes for s in n.node.table.slots), "every runner is ready again")
        assert sum(engine.starts for engine in the_plan.engines) == 3  # type: ignore[attr-defined]
        assert all(not slot.holder for n in pool.nodes for slot in n.node.table.slots)


async def test_a_slow_job_is_not_taken_for_hung(tmp_path: Path) -> None:
    """Steps that each take longer than the floor: the first has a load's time, and later ones ten of their kind."""
    the_plan = plan(tmp_path, nodes=1, limits={"stall_s": 0.2})
    async with running_pool(the_plan) as pool:
        for _ in range(2):
            answer = await draw(pool, "boat !slow 2")
            assert answer.status_code == 200, answer.text
            assert answer.json()["job"]["attempts"] == 1
        assert the_plan.engines[0].starts == 1  # type: ignore[attr-defined]


async def test_a_job_ends_at_its_deadline(tmp_path: Path) -> None:
    """A job that takes longer than its deadline is stopped on the node and answered with 504."""
    the_plan = plan(tmp_path, nodes=1)
    the_plan.broadcaster = {"limits": {"deadline_s": {"text-to-image": 1.0}}}
    async with running_pool(the_plan) as pool:
        answer = await draw(pool, "boat !slow 60")
        assert answer.status_code == 504
        assert answer.json()["error"]["class"] == "deadline"
        assert reputations(pool)[0] < 1, "who takes a job says that it can be done in time"
        await until(lambda: not pool.slot().holder, "the slot is free")


async def test_a_slow_check_of_ours_is_no_fault_of_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node has delivered in time, and the deadline passes while this broadcaster still checks: 504, no blame."""

    async def for_ever(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Delivery, "check", for_ever)
    the_plan = plan(tmp_path, nodes=1)
    the_plan.broadcaster = {"limits": {"deadline_s": {"text-to-image": 2.0}}}
    async with running_pool(the_plan) as pool:
        assert (await draw(pool, "boat")).status_code == 504
        assert reputations(pool)[0] == 1


async def test_after_a_fault_the_slot_serves_again(tmp_path: Path) -> None:
    """Whatever a job did, the next one on the same slot is whole."""
    async with running_pool(plan(tmp_path, nodes=1)) as pool:
        for fault in ("!fail user", "!fail node", "!oom"):
            assert (await draw(pool, f"boat {fault}")).status_code in (422, 500)
            assert (await draw(pool, "boat")).status_code == 200


async def test_a_price_over_the_ceiling_is_not_paid(tmp_path: Path) -> None:
    """A broadcaster with a price limit sends no job to a node that asks more."""
    dear = {**SYNTHETIC, "pipelines": {"text-to-image": {"price": {"job": "0.5"}}}}
    the_plan = PoolPlan(tmp_path, [InProcessEngine()], [dear])
    the_plan.broadcaster = {"limits": {"price": {"text-to-image": "0.1"}}}
    async with running_pool(the_plan) as pool:
        answer = await draw(pool, "boat")
        assert answer.status_code == 503
        assert "price limit" in answer.json()["detail"]["msg"]
