"""The metrics of a running pool: their sums are the jobs that were run, at every hop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broadcaster import broadcaster_metrics
from orchestrator import node_metrics, runner_metrics
from reelnet.metrics import BUILD
from reelnet.pricing import parse_money
from tests.fakes.exposition import Exposition, scrape
from tests.fakes.pool import PATIENCE_S, InProcessEngine, Pool, PoolPlan, running_pool, until
from tests.fakes.runner import picture
from tests.integration.test_cancel import Held, ask

TEXT, IMAGE = "text-to-image", "image-to-image"
SMALL = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}
PRICED = {
    "model": "synthetic/bars",
    "pipelines": {name: {"price": {"mpix_step": "0.0000045"}} for name in (TEXT, IMAGE)},
    "backend": {"synthetic": {"unit_s": 0}},
}


class Scraped:
    """What the broadcaster and all nodes say at one moment."""

    def __init__(self, broadcaster: Exposition, nodes: list[Exposition]) -> None:
        self.broadcaster = broadcaster
        self.nodes = nodes

    @classmethod
    async def of(cls, pool: Pool) -> Scraped:
        """A scrape of each."""
        nodes = [await scrape(node.metrics_port) for node in pool.nodes]
        return cls(await scrape(pool.broadcaster.metrics_port), nodes)

    def over_nodes(self, name: str, **labels: str) -> float:
        """A sum over all nodes."""
        return sum(node.sum(name, **labels) for node in self.nodes)


async def eventually(pool: Pool, condition: Callable[[Scraped], bool]) -> Scraped:
    """The first scrape of which it is true; the last one, when that does not come."""
    clock = asyncio.get_running_loop().time
    ends = clock() + PATIENCE_S / 2
    while not condition(said := await Scraped.of(pool)) and clock() < ends:
        await asyncio.sleep(0.2)  # a reading of the runners is good for a second
    return said


def at_rest(said: Scraped) -> bool:
    """Nothing runs, and the runners' last jobs have been read."""
    open_ = said.broadcaster.sum("reelnet_jobs_in_progress") + said.over_nodes("reelnet_node_attempts_in_progress")
    ran, known = said.over_nodes("reelnet_node_attempts_total"), said.over_nodes("reelnet_runner_jobs_total")
    return not open_ and ran == known


async def draw(pool: Pool, prompt: str) -> Any:
    """A small picture with a prompt that may hold a fault word."""
    return await pool.job(TEXT, {**SMALL, "prompt": prompt})


async def test_the_sums_are_the_jobs_that_were_run(tmp_path: Path) -> None:
    """Good, failed over, failed, expired, canceled and refused requests: each is counted once where it ended."""
    engines = [InProcessEngine(runner={"tick_s": 0.1}) for _ in range(2)]
    plan = PoolPlan(tmp_path, list(engines), [PRICED], broadcaster={"limits": {"deadline_s": {IMAGE: 1.0}}})
    async with running_pool(plan) as pool:
        good = [await draw(pool, "boat") for _ in range(3)] + [await draw(pool, "boat !fail node once")]
        assert [answer.json()["job"]["attempts"] for answer in good] == [1, 1, 1, 2]
        assert (await draw(pool, "boat !fail user")).status_code == 422
        late = await pool.job(IMAGE, {"prompt": "boat !slow 60", "seed": 1, "num_inference_steps": 2}, picture())
        assert late.status_code == 504
        leaving = asyncio.create_task(draw(pool, "boat !slow 60"))
        await until(lambda: any(slot.holder for node in pool.nodes for slot in node.node.table.slots), "a job runs")
        leaving.cancel()
        assert (await pool.job(TEXT, {**SMALL, "prompt": "boat", "num_inference_steps": 0})).status_code == 422
        said = await eventually(pool, lambda s: at_rest(s) and s.broadcaster.sum("reelnet_jobs_total") == 7)

    jobs = {
        (s.labels["pipeline"], s.labels["outcome"], s.labels["class"]): s.value
        for s in said.broadcaster.samples
        if s.name == "reelnet_jobs_total"
    }
    assert jobs == {
        (TEXT, "ok", "none"): 4,
        (TEXT, "failed", "user"): 1,
        (IMAGE, "expired", "deadline"): 1,
        (TEXT, "canceled", "canceled"): 1,
    }
    assert said.broadcaster.sum("reelnet_job_seconds_count") == 7
    assert (
        said.broadcaster.sum("reelnet_refusals_total")
        == said.broadcaster.sum("reelnet_refusals_total", reason="invalid")
        == 1
    )
    # 3 + 2 of good jobs, 2 of the one that failed on both nodes, and two that were cut off.
    assert said.broadcaster.sum("reelnet_attempts_total") == said.over_nodes("reelnet_node_attempts_total") == 9
    assert said.over_nodes("reelnet_runner_jobs_total") == 9
    assert said.broadcaster.sum("reelnet_failovers_total") == 2
    for name, where in (
        ("reelnet_attempts_total", said.broadcaster.sum),
        ("reelnet_node_attempts_total", said.over_nodes),
    ):
        assert where(name, outcome="ok") == 4
        assert where(name, outcome="failed", class_="node") == 1
        assert where(name, outcome="failed", class_="user") == 2
    assert said.over_nodes("reelnet_runner_jobs_total", outcome="ok", model="synthetic/bars") == 4

    work = 4 * 64 * 64 * 2
    assert said.broadcaster.sum("reelnet_work_pixel_steps_total") == work
    assert said.over_nodes("reelnet_node_work_pixel_steps_total") == work
    dollars = sum(parse_money(answer.json()["job"]["price"]) for answer in good) / 10**9
    assert dollars > 0
    assert said.broadcaster.sum("reelnet_charged_dollars_total") == pytest.approx(dollars, abs=1e-12)
    assert said.broadcaster.sum("reelnet_owed_dollars_total") == pytest.approx(dollars, abs=1e-12)
    assert said.over_nodes("reelnet_node_quoted_dollars_total") == pytest.approx(dollars, abs=1e-12)


async def test_stages_account_for_the_time_of_a_job(tmp_path: Path) -> None:
    """The broadcaster's stages follow each other, so that they add up to the job; the runner's lie inside `run`."""
    model = {**PRICED, "backend": {"synthetic": {"unit_s": 20}}}  # 64 × 64 pixels × 2 steps take 0.16 s
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine()], [model])) as pool:
        for _ in range(3):
            assert (await draw(pool, "boat")).status_code == 200
        said = await eventually(pool, at_rest)
    stages = {
        s: said.broadcaster.sum("reelnet_job_stage_seconds_sum", stage=s) for s in ("queue", "run", "transfer", "check")
    }
    total = said.broadcaster.sum("reelnet_job_seconds_sum", outcome="ok")
    assert all(seconds >= 0 for seconds in stages.values())
    assert sum(stages.values()) == pytest.approx(total, abs=0.03)
    runner = said.over_nodes("reelnet_runner_stage_seconds_sum", stage="run")
    denoise = said.over_nodes("reelnet_runner_stage_seconds_sum", stage="denoise")
    assert 3 * 0.16 <= denoise <= runner <= said.over_nodes("reelnet_node_stage_seconds_sum", stage="run")
    held = 3 * 0.01  # `started` may wait for company, in the runner and in the node
    assert denoise - held <= stages["run"] <= total
    assert said.over_nodes("reelnet_runner_stage_seconds_bucket", stage="denoise", le="0.1") == 0
    assert said.over_nodes("reelnet_runner_stage_seconds_bucket", stage="denoise", le="+Inf") == 3
    for stage in ("queue", "run", "delivery"):
        assert said.over_nodes("reelnet_node_stage_seconds_count", stage=stage) == 3
    assert said.over_nodes("reelnet_node_stage_seconds_count", stage="input") == 0


async def test_a_full_node_and_a_full_broadcaster_count_their_refusals(tmp_path: Path) -> None:
    """Neither is a job, nor an attempt of one: each counts by its reason."""
    held = Held()
    plan = PoolPlan(tmp_path, [held.engine], [{**PRICED, "queue": 0}], broadcaster={"limits": {"jobs": 2}})
    async with running_pool(plan) as pool:
        running = asyncio.create_task(ask(pool, TEXT))
        await held.until_held()
        said = await Scraped.of(pool)
        assert (
            said.broadcaster.sum("reelnet_jobs_in_progress")
            == said.broadcaster.sum("reelnet_attempts_in_progress")
            == 1
        )
        assert (
            said.over_nodes("reelnet_node_slots", state="busy")
            == said.over_nodes("reelnet_node_runners", state="busy")
            == 1
        )
        assert (await ask(pool, TEXT)).status_code == 503
        pool.broadcaster.gateway.draining = True
        assert (await ask(pool, TEXT)).json()["error"]["code"] == "draining"
        pool.broadcaster.gateway.draining = False
        held.backend.let_go.set()
        assert (await running).status_code == 200
        said = await eventually(pool, at_rest)
    assert said.over_nodes("reelnet_node_refusals_total", class_="busy", reason="queue_full") == 1
    assert said.over_nodes("reelnet_node_slots", state="ready") == 1
    assert said.broadcaster.sum("reelnet_refusals_total", reason="full") == 1
    assert said.broadcaster.sum("reelnet_refusals_total", reason="draining") == 1
    assert said.broadcaster.sum("reelnet_refusals_total") == 2
    assert said.broadcaster.sum("reelnet_jobs_total") == said.broadcaster.sum("reelnet_attempts_total") == 1


async def test_a_restarted_runners_jobs_are_not_forgotten(tmp_path: Path) -> None:
    """A runner that is restarted begins at zero, and its node goes on counting."""
    engine = InProcessEngine(runner={"tick_s": 0.1})
    limits = {"stall_s": 1.0, "stop_s": 2.0, "restart_backoff_s": 0.05}
    async with running_pool(PoolPlan(tmp_path, [engine], [PRICED], node={"limits": limits})) as pool:
        for _ in range(2):
            assert (await draw(pool, "boat")).status_code == 200
        assert (await eventually(pool, at_rest)).over_nodes("reelnet_runner_jobs_total", outcome="ok") == 2
        supervisor = next(iter(pool.nodes[0].node.supervisors.values()))
        supervisor.restart("a test asked for it")
        await until(lambda: engine.starts == 2 and pool.slot().ready, "another runner is ready")
        assert (await draw(pool, "boat")).status_code == 200
        said = await eventually(pool, lambda s: s.over_nodes("reelnet_runner_jobs_total", outcome="ok") == 3)
    assert said.over_nodes("reelnet_runner_jobs_total", outcome="ok") == 3
    assert said.over_nodes("reelnet_runner_stage_seconds_count", stage="run") == 3
    assert said.over_nodes("reelnet_node_runner_restarts_total") == 1


async def test_a_picture_is_checked_and_its_time_counted(tmp_path: Path) -> None:
    """Checks of inputs and outputs count by what came of them; the input's way to the node is a stage."""
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine()], [PRICED])) as pool:
        params = {"prompt": "boat", "seed": 1, "num_inference_steps": 2}
        assert (await pool.job(IMAGE, params, picture())).status_code == 200
        assert (await pool.job(IMAGE, params, b"no picture")).status_code == 400
        said = await eventually(pool, at_rest)
    assert said.broadcaster.sum("reelnet_checks_total", kind="picture", outcome="ok") == 1
    assert said.broadcaster.sum("reelnet_checks_total", kind="picture", outcome="failed", class_="user") == 1
    assert said.broadcaster.sum("reelnet_checks_total", kind="output", outcome="ok") == 1
    assert said.broadcaster.sum("reelnet_refusals_total", reason="malformed") == 1
    assert said.over_nodes("reelnet_node_stage_seconds_count", stage="input", pipeline=IMAGE) == 1


async def test_only_what_is_defined_is_shown(tmp_path: Path) -> None:
    """Every family on a scrape stands in the definitions, and so on the page; labels and types are as they say."""
    async with running_pool(PoolPlan(tmp_path, [InProcessEngine()], [PRICED])) as pool:
        assert (await draw(pool, "boat")).status_code == 200
        said = await eventually(pool, at_rest)
    for exposition, families in (
        (said.broadcaster, (BUILD, *broadcaster_metrics.FAMILIES)),
        (said.nodes[0], (BUILD, *node_metrics.FAMILIES, *runner_metrics.FAMILIES)),
    ):
        assert exposition.families() == {family.name for family in families}
        for family in families:
            assert f"# TYPE {family.name} {family.kind}\n" in exposition.text
            assert f"# HELP {family.name} {family.meaning}\n" in exposition.text
            for sample in exposition.samples:
                if sample.name.startswith(family.name):
                    assert set(sample.labels) - {"le"} == set(family.label_names)
