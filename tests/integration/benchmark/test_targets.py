"""Every target measured for real: a synthetic pool of other speeds, nodes, runners, tiny models, the command itself."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from pydantic import SecretStr

from benchmark.document import Report, document
from benchmark.local_pool import PoolPlan
from benchmark.scenario import Request
from benchmark.targets import Aim
from orchestrator.app import RunningNode
from orchestrator.engine import RunnerSpec
from reelnet.client import Address
from reelnet.errors import StartError
from reelnet.identity import Identity
from reelnet.pipelines import PIPELINES, Size
from runner.settings import RunnerSettings
from runner.synthetic import SyntheticBackend
from runner.worker import State
from tests.fakes.bench import measured
from tests.fakes.pool import (
    InProcessEngine,
    broadcaster_settings,
    node_settings,
    ready,
    running_broadcaster,
    running_node,
    running_pool,
    until,
)
from tests.fakes.pool import PoolPlan as FakePool

TEXT, VIDEO = PIPELINES["text-to-image"], PIPELINES["image-to-video"]
SMALL = Size(64, 64)
PATIENCE_S = 90.0
MPX_STEPS = 64 * 64 / 1e6


def aim(home: Path, **where: Any) -> Aim:
    """Something that runs already."""
    return Aim(PoolPlan(home=home, models=home), **where)


@asynccontextmanager
async def node(
    home: Path,
    number: int = 0,
    settings: dict[str, Any] | None = None,
    engine: InProcessEngine | None = None,
    **backend: Any,
) -> AsyncIterator[RunningNode]:
    """A synthetic node in this process, with its runner's socket below `home`."""
    models = [{"model": "synthetic/bars", "backend": {"synthetic": backend}}]
    plan = FakePool(home, [], models, node=settings or {})
    async with running_node(node_settings(plan, number), engine or InProcessEngine()) as running:
        yield running


class VirtualTime:
    """Seconds that pass only while a synthetic runner pauses: its jobs take what was drawn, on the busiest machine."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, canceled: threading.Event, seconds: float) -> None:
        """Takes no time of ours. One runner works at a time."""
        self.now += seconds

    def engine(self) -> InProcessEngine:
        """Synthetic runners in this time."""

        def backend(spec: RunnerSpec, settings: RunnerSettings) -> SyntheticBackend:
            return SyntheticBackend(spec.model_id, settings.synthetic, pause=self.pause)

        return InProcessEngine(backend, clock=self)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose sockets fit a path's limit."""
    with tempfile.TemporaryDirectory(prefix="rn-", dir="/tmp") as folder:
        yield Path(folder)


@asynccontextmanager
async def runner(folder: Path) -> AsyncIterator[Path]:
    """A synthetic runner that no node has; its socket."""
    engine = InProcessEngine()
    spec = RunnerSpec("s0", "synthetic/bars", "synthetic/bars", "synthetic", "cpu", folder)
    handle = await engine.start(spec)
    await until(lambda: engine.workers["s0"].status().state is State.READY, "the runner is ready")
    try:
        yield handle.socket
    finally:
        await engine.close()


async def test_speeds_1_1_2_4_are_ranked_right(tmp_path: Path) -> None:
    """Four nodes side by side, jobs of 8 % noise in virtual time: the fast one alone, the middle one, two equals."""
    time, speeds = VirtualTime(), (1, 1, 2, 4)
    async with AsyncExitStack() as stack:
        nodes = [
            await stack.enter_async_context(
                node(tmp_path, number, engine=time.engine(), unit_s=50.0 / speed, spread=0.08, spread_seed=number)
            )
            for number, speed in enumerate(speeds)
        ]
        where = aim(tmp_path, nodes=tuple(Address.parse(one.address) for one in nodes))
        assessed = await measured(where, Request(TEXT, 1, SMALL, runs=10, warmup=1), tmp_path, clock=time)
    ranks = {result.figures.name: result.rank for result in assessed.nodes}
    assert [ranks[one.node.id] for one in nodes] == [3, 3, 2, 1]
    assert assessed.good
    assert set(assessed.measurement.agreement.values()) == {1.0}, "honest nodes draw the same for the same job"
    rates = {result.figures.name: result.figures.mpix_steps_per_s.value for result in assessed.nodes}
    assert [rates[one.node.id] for one in nodes] == pytest.approx([speed / 50 for speed in speeds], rel=0.15)


async def test_a_pool_of_other_speeds_is_measured_side_by_side(tmp_path: Path) -> None:
    """True processes, each node by its name, and none faster than it is set to be."""
    pool = PoolPlan(home=tmp_path / "p", models=tmp_path, backend="synthetic", speeds=(1, 4), unit_s=5.0)
    assessed = await measured(Aim(pool, fresh=True), Request(TEXT, 1, SMALL, runs=2, warmup=0), tmp_path)
    measurement = assessed.measurement
    assert sorted(measurement.labels.values()) == ["node-1 ×1", "node-2 ×4"]
    assert assessed.good
    assert measurement.kind == "orchestrator"
    assert measurement.start_s is not None
    assert measurement.ready_s.keys() == measurement.labels.keys()
    for result in assessed.nodes:
        speed = float(measurement.labels[result.figures.name].partition("×")[2])
        assert 0 < (result.figures.mpix_steps_per_s.value or 0) <= speed / 5


async def test_known_quantiles_come_back_within_their_intervals(tmp_path: Path) -> None:
    """A job's time is lognormal with known quantiles, in virtual time; p50, p90 and p99 hold them."""
    median_s, sigma, time = 0.02, 0.5, VirtualTime()
    async with node(tmp_path, engine=time.engine(), unit_s=median_s / MPX_STEPS, spread=sigma) as running:
        request = Request(TEXT, 1, SMALL, runs=120, warmup=2)
        where = aim(tmp_path, nodes=(Address.parse(running.address),))
        assessed = await measured(where, request, tmp_path, clock=time)
    (result,) = assessed.nodes
    for place, share in enumerate((0.5, 0.9, 0.99)):
        truth = median_s * math.exp(sigma * NormalDist().inv_cdf(share))
        claimed = result.figures.stages_s["denoise"].quantiles[place]
        assert claimed.low is not None
        assert claimed.low <= truth <= (claimed.high or math.inf), share
    assert result.score.tail_of == "p50/p99"


async def test_a_node_that_does_not_know_this_key_says_so(tmp_path: Path) -> None:
    """The operator is told the key to allow; with one that the node names, it is measured."""
    key = tmp_path / "bench.key"
    friend = Identity.load_or_create(key).id
    request = Request(TEXT, 1, SMALL, runs=2, warmup=0)
    async with node(tmp_path, settings={"broadcasters": [friend]}, unit_s=0) as running:
        where = (Address.parse(running.address),)
        with pytest.raises(ExceptionGroup) as caught:
            await measured(aim(tmp_path, nodes=where), request, tmp_path)
        assert caught.group_contains(StartError, match="broadcasters.*--identity FILE")
        assessed = await measured(aim(tmp_path, nodes=where, identity=key), request, tmp_path)
    assert assessed.good


async def test_a_broadcaster_that_asks_for_a_key_gets_it(tmp_path: Path) -> None:
    """Without one, or with a wrong one, the error says how to give it; the report and the error do not show it."""
    keys = tmp_path / "keys"
    keys.write_text("the-right-key\n")
    request = Request(TEXT, 1, SMALL, runs=2, warmup=0)
    plan = FakePool(tmp_path, [InProcessEngine()], broadcaster={"keys_file": str(keys)})
    async with running_node(node_settings(plan, 0), plan.engines[0]) as one:
        settings = broadcaster_settings(tmp_path, [one.address], **plan.broadcaster)
        async with running_broadcaster(settings) as broadcaster:
            await ready(broadcaster, 1)
            for key, said in (
                (None, "asks for an API key"),
                (SecretStr("the-wrong-key"), "does not know this API key"),
            ):
                with pytest.raises(StartError, match=f"{said}.*--key-file FILE.*REELNET_BENCHMARK_KEY") as caught:
                    await measured(aim(tmp_path, url=broadcaster.url, key=key), request, tmp_path)
                assert "wrong" not in str(caught.value)
            key = SecretStr("the-right-key")
            assessed = await measured(aim(tmp_path, url=broadcaster.url, key=key), request, tmp_path)
    assert assessed.good
    assert "the-right-key" not in document(assessed, "1").model_dump_json()


async def test_a_runner_is_measured_over_its_socket(short_folder: Path, tmp_path: Path) -> None:
    """Both pipelines, without a node; nothing is sold there, so there is no price."""
    async with runner(short_folder) as socket:
        for pipeline in (TEXT, VIDEO):
            request = Request(pipeline, 2, SMALL, 4 if pipeline is VIDEO else None, runs=6)
            assessed = await measured(aim(tmp_path, runners=(socket,)), request, tmp_path)
            (result,) = assessed.nodes
            assert (result.figures.good, result.figures.price_nano) == (6, None)
            assert {"total", "denoise", "run"} <= result.figures.stages_s.keys()
            assert assessed.good


async def test_what_is_not_there_cannot_be_measured(tmp_path: Path) -> None:
    """A dead address, and a node that serves something else, are told before anything runs."""
    request = Request(TEXT, 1, SMALL)
    for where in ({"url": "http://127.0.0.1:9"}, {"nodes": (Address.parse("127.0.0.1:9"),)}):
        with pytest.raises(StartError, match=r"127\.0\.0\.1:9"):
            await measured(aim(tmp_path, **where), request, tmp_path)
    async with node(tmp_path, unit_s=0) as running:
        where = {"nodes": (Address.parse(running.address),)}
        with pytest.raises(StartError, match="did you mean"):
            await measured(aim(tmp_path, **where), request, tmp_path, model="synthetic/bar")


async def test_a_broadcasters_nodes_can_be_measured_themselves(tmp_path: Path) -> None:
    """--target orchestrator with a broadcaster's URL: each of its nodes, side by side."""
    async with running_pool(FakePool(tmp_path, [InProcessEngine(), InProcessEngine()])) as pool:
        request = Request(TEXT, 1, SMALL, runs=6)
        assessed = await measured(aim(tmp_path, kind="orchestrator", url=pool.broadcaster.url), request, tmp_path)
    assert len(assessed.nodes) == 2
    assert assessed.pairs[0].blocks == 6
    assert assessed.good


@pytest.mark.diffusers
async def test_tiny_models_are_honest(tmp_path: Path, tiny_models: Path) -> None:
    """True model code with random weights, both pipelines: every output is good, and nothing is taken for a lie."""
    models = [{"model": "reelnet/tiny-random-sd"}, {"model": "reelnet/tiny-random-svd"}]
    plan = FakePool(tmp_path, [InProcessEngine()], models, node={"models_home": str(tiny_models)})
    async with running_pool(plan) as pool:
        for pipeline, frames in ((TEXT, None), (VIDEO, 4)):
            request = Request(pipeline, 2, SMALL, frames, runs=6)
            assessed = await measured(aim(tmp_path, url=pool.broadcaster.url), request, tmp_path)
            assert assessed.pool is not None
            assert (assessed.pool.figures.good, dict(assessed.pool.figures.wrong)) == (6, {})
            assert assessed.pool.score.correctness == 1
            assert assessed.reference is not None
            assert "CPU" in assessed.reference.source


async def test_the_command_prints_and_writes_a_report(tmp_path: Path) -> None:
    """From nothing: a pool is started, measured and stopped, and the report is valid; the exit code is 0."""
    file = tmp_path / "report.json"
    words = ["--pipeline", "image-to-video", "--local-pool", "--backend", "synthetic", "--runs", "5"]
    words += ["--size", "64x64", "--steps", "2", "--frames", "4", "--json", str(file)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmark.cli", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "COLUMNS": "80"},
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert "clips/min" in out.decode()
    assert "Traceback" not in err.decode()
    report = Report.model_validate(json.loads(file.read_text("utf-8")))
    assert (report.pool and report.pool.good, len(report.samples)) == (5, 6)
    assert report.start_s is not None
