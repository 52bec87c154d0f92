"""A client that leaves stops the step loop within one step and frees the slot, through all four hops.

No clock: step k is held open until the runner has seen the cancel, then let go; step k+1 must never start.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from orchestrator.engine import RunnerSpec
from runner.app import make_backend
from runner.backend import Backend, ModelInfo, Rendered, Reporter, RunnerJob
from runner.settings import RunnerSettings
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool, until
from tests.fakes.runner import picture

HELD_STEP = 2
PATIENCE_S = 30.0
SYNTHETIC = {"model": "synthetic/bars", "backend": {"synthetic": {"unit_s": 0}}}
IMAGE = {"prompt": "a boat", "width": 64, "height": 64, "num_inference_steps": 6, "seed": 5}
CLIP = {"width": 64, "height": 64, "num_inference_steps": 6, "num_frames": 2, "seed": 5}


class HeldBackend:
    """The true backend; its first job stands at the end of one denoising step until it is let go.

    `steps` are the denoising steps that were reached, by any job.
    """

    def __init__(self, inner: Backend) -> None:
        self.held = threading.Event()
        self.let_go = threading.Event()
        self.steps: list[int] = []
        self._inner = inner

    def load(self) -> ModelInfo:
        return self._inner.load()

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        return self._inner.run(job, _HeldReporter(self, report))

    def recover(self) -> None:
        self._inner.recover()

    def memory_bytes(self) -> int:
        return self._inner.memory_bytes()

    def close(self) -> None:
        self.let_go.set()
        self._inner.close()


class _HeldReporter:
    def __init__(self, backend: HeldBackend, inner: Reporter) -> None:
        self._backend = backend
        self._inner = inner

    def step(self, stage: str, step: int, total: int) -> None:
        if stage == "denoise":
            self._backend.steps.append(step)
            if step == HELD_STEP and not self._backend.let_go.is_set():
                self._backend.held.set()
                assert self._backend.let_go.wait(PATIENCE_S), "nobody let the step go"
        self._inner.step(stage, step, total)


class Held:
    """One node whose only runner has a held backend."""

    def __init__(self) -> None:
        self.backends: list[HeldBackend] = []
        self.engine = InProcessEngine(backend=self._make, runner={"tick_s": 0.1})

    def _make(self, spec: RunnerSpec, settings: RunnerSettings) -> HeldBackend:
        self.backends.append(HeldBackend(make_backend(settings)))
        return self.backends[-1]

    async def until_held(self) -> None:
        """Until a job stands at the step."""
        assert await asyncio.to_thread(self.backend.held.wait, PATIENCE_S), "no job came to the step"

    @property
    def backend(self) -> HeldBackend:
        return self.backends[-1]


def models(tiny_models: Path, kind: str) -> list[dict[str, Any]]:
    """The node's model: the synthetic one, or a tiny one with true model code."""
    if kind == "synthetic":
        return [SYNTHETIC]
    return [{"model": str(tiny_models / "reelnet" / kind), "id": kind}]


CASES = [
    pytest.param("synthetic", "text-to-image", id="synthetic"),
    pytest.param("tiny-random-sd", "text-to-image", id="stable-diffusion", marks=pytest.mark.diffusers),
    pytest.param("tiny-random-svd", "image-to-video", id="svd", marks=pytest.mark.diffusers),
]


@pytest.mark.parametrize(("model", "pipeline"), CASES)
async def test_a_client_that_leaves_stops_the_gpu_within_one_step(
    tmp_path: Path, tiny_models: Path, model: str, pipeline: str
) -> None:
    """The step under way when the client leaves is the last; the slot is free again, and the next job is whole."""
    held = Held()
    async with running_pool(PoolPlan(tmp_path, [held.engine], models(tiny_models, model))) as pool:
        request = asyncio.create_task(ask(pool, pipeline))
        await held.until_held()
        (worker,) = held.engine.workers.values()
        activity = worker.current
        assert activity is not None
        request.cancel()
        await until(lambda: activity.canceled.is_set(), "the runner sees the cancel")
        assert pool.slot().holder is not None, "the slot stays taken while the step still computes"
        held.backend.let_go.set()
        await until(lambda: pool.slot().holder is None, "the slot is freed")
        assert held.backend.steps == list(range(1, HELD_STEP + 1)), "step k+1 has started"
        assert held.engine.starts == 1, "the runner was restarted instead of stopping the job"
        again = await ask(pool, pipeline)
        assert again.status_code == 200, again.text
        first = await pool.outputs(again)
        assert first == await pool.outputs(await ask(pool, pipeline)), "a canceled job changed the next one"


async def ask(pool: Pool, pipeline: str) -> httpx.Response:
    """One small job of the pipeline."""
    if pipeline == "text-to-image":
        return await pool.job(pipeline, IMAGE)
    return await pool.job(pipeline, CLIP, picture())


async def test_health_answers_while_a_step_is_held(tmp_path: Path) -> None:
    """The runner's /health answers during a step, and says BUSY; so does the node's own health service."""
    held = Held()
    async with running_pool(PoolPlan(tmp_path, [held.engine], [SYNTHETIC])) as pool:
        request = asyncio.create_task(ask(pool, "text-to-image"))
        await held.until_held()
        supervisor = next(iter(pool.nodes[0].node.supervisors.values()))
        assert supervisor.client is not None
        health = await supervisor.client.health()
        assert health.state == "BUSY"
        assert (await pool.http.get("/healthz")).status_code == 200
        held.backend.let_go.set()
        assert (await request).status_code == 200


async def test_a_client_that_leaves_the_queue_frees_its_place(tmp_path: Path) -> None:
    """A job that waits for a slot is gone with its client, and never reaches the runner."""
    held = Held()
    async with running_pool(PoolPlan(tmp_path, [held.engine], [SYNTHETIC])) as pool:
        table = pool.nodes[0].node.table
        running = asyncio.create_task(ask(pool, "text-to-image"))
        await held.until_held()
        waiting = asyncio.create_task(ask(pool, "text-to-image"))
        await until(lambda: len(table.waiting("synthetic/bars")) == 1, "the second job waits")
        waiting.cancel()
        await until(lambda: not table.waiting("synthetic/bars"), "its place is free")
        held.backend.let_go.set()
        assert (await running).status_code == 200
        assert held.backend.steps == [1, 2, 3, 4, 5, 6]


async def test_two_jobs_on_one_slot_run_one_after_the_other(tmp_path: Path) -> None:
    """While one job holds the slot the other does not start a step; both end well."""
    held = Held()
    async with running_pool(PoolPlan(tmp_path, [held.engine], [SYNTHETIC])) as pool:
        both = [asyncio.create_task(ask(pool, "text-to-image")) for _ in range(2)]
        await held.until_held()
        await until(lambda: len(pool.nodes[0].node.attempts()) == 2, "both jobs are on the node")
        assert held.backend.steps == [1, 2]
        held.backend.let_go.set()
        answers = await asyncio.gather(*both)
        assert [answer.status_code for answer in answers] == [200, 200]
        assert held.backend.steps == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]


async def test_a_client_that_leaves_its_event_stream_stops_the_gpu(tmp_path: Path) -> None:
    """Whoever follows a job by events and goes away cancels it just so."""
    held = Held()
    async with running_pool(PoolPlan(tmp_path, [held.engine], [SYNTHETIC])) as pool:
        accept = {"accept": "text/event-stream"}
        async with pool.http.stream("POST", "/text-to-image", json=IMAGE, headers=accept) as answer:
            async for line in answer.aiter_lines():
                if line == "event: started":
                    break
            await held.until_held()
        (worker,) = held.engine.workers.values()
        activity = worker.current
        assert activity is not None
        await until(lambda: activity.canceled.is_set(), "the runner sees the cancel")
        held.backend.let_go.set()
        await until(lambda: pool.slot().holder is None, "the slot is freed")
        assert held.backend.steps == [1, 2]
