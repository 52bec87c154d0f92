"""A true Prometheus reads a broadcaster and two nodes under load; what it has then is what was run."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmark.client import BroadcasterClient, JobSpec
from benchmark.local_pool import LocalPool, PoolPlan
from reelnet.errors import ReelnetError
from reelnet.lifecycle import READY_FILE
from tests.fakes import pool as in_process
from tests.fakes.exposition import promtool_complaints, scrape
from tests.fakes.pool import InProcessEngine, running_pool
from tests.fakes.prometheus import CONFIG, Prometheus, running_prometheus
from tests.programs import needs

TEXT = "text-to-image"
SMALL = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}
UNIT_S = 20.0
"""So slow a runner takes 0.16 s for a picture of 64 × 64 pixels in 2 steps: more than the first bucket's bound."""
DENOISE_S = UNIT_S * 64 * 64 * 2 / 1e6
WORKERS = 4
SETTLE_S = 30.0
MIX = {"boat": 48, "boat !fail node once": 6, "boat !fail user": 4}
LEAVING = 2
JOBS = sum(MIX.values()) + LEAVING
ATTEMPTS = 48 + 2 * 6 + 2 * 4 + LEAVING
PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
EXAMPLES = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def prometheus_is_there() -> None:
    """The programs that these tests are about."""
    needs("prometheus", "promtool")


async def test_what_prometheus_has_is_what_was_run(tmp_path: Path) -> None:
    """Targets are up under load, sums are the jobs, and the runners' seconds come through their nodes."""
    plan = PoolPlan(home=tmp_path / "pool", models=tmp_path, nodes=2, backend="synthetic", unit_s=UNIT_S)
    async with LocalPool(plan) as pool:
        broadcaster, nodes = metrics_address(plan.home, "broadcaster", "default"), node_addresses(plan)
        targets = {"reelnet-broadcaster": [broadcaster], "reelnet-orchestrator": nodes}
        async with running_prometheus(tmp_path / "prometheus", targets) as prometheus:
            await prometheus.until("count(up == 1)", 3, SETTLE_S)
            outcomes = await load(pool.url)
            await prometheus.until("sum(reelnet_jobs_total)", JOBS, SETTLE_S)
            await prometheus.until("sum(reelnet_runner_jobs_total)", ATTEMPTS, SETTLE_S)
            assert await prometheus.number("min(min_over_time(up[1m]))") == 1, "a target was down under load"
            assert await prometheus.number("count(count_over_time(up[1m]) >= 3)") == 3, "no scrape fell into the load"
            await check_sums(prometheus, outcomes)
            await check_stages(prometheus, nodes)
            await check_examples(prometheus)
        for address in (broadcaster, *nodes):
            assert promtool_complaints((await scrape(int(address.rpartition(":")[2]))).text) == ""


async def test_promtool_has_nothing_to_say_of_any_component(tmp_path: Path) -> None:
    """`promtool check metrics` is content with a broadcaster, a node and a runner, before and after their first job."""
    async with running_pool(in_process.PoolPlan(tmp_path, [InProcessEngine()])) as pool:
        client = next(iter(pool.nodes[0].node.supervisors.values())).client
        assert client is not None
        for _ in range(2):
            for port in (pool.broadcaster.metrics_port, pool.nodes[0].metrics_port):
                assert promtool_complaints((await scrape(port)).text) == ""
            assert promtool_complaints((await client.metrics(5)).decode()) == ""
            assert (await pool.job(TEXT, {**SMALL, "prompt": "boat"})).status_code == 200
            assert (await pool.job(TEXT, {**SMALL, "prompt": "boat !oom"})).status_code == 500


def test_promtool_takes_the_configuration_of_deploy() -> None:
    """deploy/prometheus.yml is one that Prometheus takes."""
    done = subprocess.run(["promtool", "check", "config", str(CONFIG)], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def load(url: str) -> Counter[str]:
    """Runs the mix with a few clients at once, then some whose client leaves; how they ended, by class."""
    prompts = [prompt for prompt, count in MIX.items() for _ in range(count)]
    todo = iter(prompts[::7] + [p for i, p in enumerate(prompts) if i % 7])
    outcomes: Counter[str] = Counter()

    async def work() -> None:
        async with BroadcasterClient(url) as client:
            for prompt in todo:
                try:
                    await client.run(job(prompt))
                    outcomes["ok"] += 1
                except ReelnetError as error:
                    outcomes[error.failure.value] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(WORKERS):
            group.create_task(work())
    for _ in range(LEAVING):
        await leave(url)
    return outcomes


async def leave(url: str) -> None:
    """Begins a long job, and leaves once a runner works on it."""
    async with BroadcasterClient(url) as client:
        async for name, _ in client.events(job("boat !slow 600")):
            if name == "started":
                break


def job(prompt: str) -> JobSpec:
    """A small picture."""
    return JobSpec(TEXT, {**SMALL, "prompt": prompt})


async def check_sums(prometheus: Prometheus, outcomes: Counter[str]) -> None:
    """Jobs by their end are those that clients saw; attempts are the same on both sides; work is that of good jobs."""
    assert outcomes == {"ok": 54, "user": 4}
    ends = await prometheus.vector("sum by (outcome, class) (reelnet_jobs_total)")
    assert {(labels["outcome"], labels["class"]): value for labels, value in ends} == {
        ("ok", "none"): 54,
        ("failed", "user"): 4,
        ("canceled", "canceled"): LEAVING,
    }
    assert await prometheus.number("sum(reelnet_attempts_total)") == ATTEMPTS
    assert await prometheus.number("sum(reelnet_node_attempts_total)") == ATTEMPTS
    assert await prometheus.number("sum(reelnet_failovers_total)") == 6 + 4
    assert await prometheus.number('sum(reelnet_runner_jobs_total{outcome="ok"})') == 54
    assert await prometheus.number("sum(reelnet_work_pixel_steps_total)") == 54 * 64 * 64 * 2
    assert await prometheus.number("sum(reelnet_node_work_pixel_steps_total)") == 54 * 64 * 64 * 2
    charged = await prometheus.number("sum(reelnet_charged_dollars_total)")
    assert charged == pytest.approx(54 * 37e-9, rel=1e-9), "64 × 64 × 2 at $0.0000045 a megapixel·step, rounded up"
    assert await prometheus.number("sum(reelnet_node_quoted_dollars_total)") == pytest.approx(charged, rel=1e-9)
    assert await prometheus.number("sum(reelnet_refusals_total)") == 0


async def check_stages(prometheus: Prometheus, nodes: list[str]) -> None:
    """Each node shows its runners' stages, and quantiles of them can be asked for."""
    rows = await prometheus.vector('sum by (instance) (reelnet_runner_stage_seconds_count{stage="run"})')
    assert {labels["instance"] for labels, _ in rows} == set(nodes)
    assert sum(value for _, value in rows) == ATTEMPTS
    assert all(value > 10 for _, value in rows), "both nodes worked"
    denoise = await prometheus.number('sum(reelnet_runner_stage_seconds_sum{stage="denoise"})')
    assert denoise >= 54 * DENOISE_S
    quantile = 'histogram_quantile(0.5, sum by (le) (reelnet_runner_stage_seconds_bucket{stage="denoise"}))'
    assert 0.1 < await prometheus.number(quantile) <= 0.25
    series = await prometheus.vector("reelnet_runner_stage_seconds_bucket")
    assert {frozenset(labels) for labels, _ in series} == {
        frozenset({"__name__", "instance", "job", "le", "model", "pipeline", "stage"})
    }


async def check_examples(prometheus: Prometheus) -> None:
    """Every query of docs/metrics.md gives numbers."""
    queries = re.split(r"^#.*\n", EXAMPLES.findall(PAGE.read_text("utf-8"))[0], flags=re.MULTILINE)[1:]
    assert len(queries) >= 4
    for query in queries:
        rows = await prometheus.vector(query)
        assert rows, query
        assert any(math.isfinite(value) for _, value in rows), query


def metrics_address(home: Path, component: str, name: str) -> str:
    """Where a component of a local pool shows its metrics."""
    facts = json.loads((home / component / name / READY_FILE).read_text("utf-8"))
    return f"127.0.0.1:{facts['metrics_port']}"


def node_addresses(plan: PoolPlan) -> list[str]:
    """Where each node shows its metrics."""
    return [metrics_address(plan.home, "orchestrator", f"node-{i + 1}") for i in range(plan.nodes)]
