"""What a node makes of its runners' metrics: sums that never fall, and nothing that a bad runner made up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from orchestrator.runner_client import METRICS_BYTES, RunnerClient
from orchestrator.runner_metrics import RunnerMetrics, Tally, read
from orchestrator.runner_state import RunnerState
from orchestrator.slots import Slot
from reelnet.metrics import new_registry
from reelnet.runner_metrics import JOBS, STAGE_SECONDS
from runner.metrics import RunnerMetrics as Runner
from tests.fakes.exposition import Exposition

TEXT = "text-to-image"
TIMINGS_S = {"denoise": 2.0, "decode": 0.5, "encode": 0.25, "run": 3.0}
COUNTED = f'{JOBS.name}{{pipeline="{TEXT}",outcome="ok",class="none"}}'
BUCKET = f'{STAGE_SECONDS.name}_bucket{{pipeline="{TEXT}",stage="run",le="0.1"}} 1\n'


def runner(jobs: int = 1) -> Runner:
    """A runner that has done this many jobs."""
    metrics = Runner()
    for _ in range(jobs):
        metrics.count(TEXT, "done", TIMINGS_S)
    return metrics


class FakeClient:
    """A runner's `/metrics` as a function."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer
        self.calls = 0

    async def metrics(self, timeout_s: float) -> bytes:
        self.calls += 1
        answer = self.answer()
        if isinstance(answer, Exception):
            raise answer
        return bytes(answer)


class Node:
    """Slots with runners behind them, whose metrics are passed on. `now_s` is the clock."""

    def __init__(self, *clients: Any, models: tuple[str, ...] = (), state: RunnerState = RunnerState.READY) -> None:
        self.registry: CollectorRegistry = new_registry("orchestrator")
        names = models or ("acme/model",) * len(clients)
        self.keepers = {
            f"slot-{i}": SimpleNamespace(slot=Slot(f"slot-{i}", model, "cpu/0"), client=client, state=state)
            for i, (client, model) in enumerate(zip(clients, names, strict=True))
        }
        self.now_s = 0.0
        self.metrics = RunnerMetrics(self.registry, self.keepers, 0.2, lambda: self.now_s)  # type: ignore[arg-type]

    async def scrape(self) -> Exposition:
        """What Prometheus would see, two seconds after the last time."""
        self.now_s += 2
        await self.metrics.refresh()
        return Exposition(generate_latest(self.registry).decode())


def test_a_runners_own_text_is_read_whole() -> None:
    """Counts, buckets and sums as the runner has them; its build information is not passed on."""
    reading = read(runner(3).text())
    assert reading[JOBS.name, (TEXT, "ok", "none")] == (3.0,)
    buckets = reading[STAGE_SECONDS.name, (TEXT, "denoise")]
    assert buckets[-1] == 6.0
    assert buckets[3] == 0.0, "2 s are more than 1"
    assert buckets[4:-1] == (3.0,) * 9, "and at most 2.5"
    assert {name for name, _ in reading} == {JOBS.name, STAGE_SECONDS.name}


def test_labels_outside_their_sets_are_other() -> None:
    """A runner can make up no series: whatever it says, there are few."""
    lines = [f'{JOBS.name}{{pipeline="p{i}",outcome="o{i}",class="c{i}"}} 1' for i in range(300)]
    assert read("\n".join(lines).encode() + b"\n") == {(JOBS.name, ("other", "other", "other")): (300.0,)}


@pytest.mark.parametrize(
    "text",
    [
        f"{COUNTED} NaN\n",
        f"{COUNTED} -1\n",
        f"{COUNTED} +Inf\n",
        f"{COUNTED} 1e300\n",
        f'{JOBS.name}{{pipeline="{TEXT}",outcome="ok"}} 1\n',
        BUCKET,
        BUCKET.replace("0.1", "0.2"),
        BUCKET.replace(',le="0.1"', ""),
        runner().text().decode().replace('stage="run"} 3.0', 'stage="run"} -3.0'),
        runner().text().decode().replace('le="+Inf",pipeline="text-to-image",stage="run"} 1.0',
                                         'le="+Inf",pipeline="text-to-image",stage="run"} 0.0'),
        "reelnet_runner_jobs_total{ 1\n",
        "{}{}{}\n",
        "\xff".encode("latin-1").decode("latin-1") * 9,
    ],
)  # fmt: skip
def test_what_no_runner_says_is_refused(text: str) -> None:
    """Amounts that are none, histograms that are not whole or not cumulative, labels that are missing."""
    with pytest.raises(ValueError):
        read(text.encode())


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    """Whatever a runner sends, the worst that comes of it is a ValueError."""
    with suppress(ValueError):
        read(text)


@given(st.text(alphabet='reelnt_ujobs{}="\\,\n# 019.+-eNaIf', max_size=200))
def test_almost_metrics_are_read_or_refused(text: str) -> None:
    """The same for texts that look like metrics."""
    with suppress(ValueError):
        read(f"{COUNTED} 1\n{text}".encode())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=20))
def test_a_tally_counts_every_job_over_all_lives(steps: list[tuple[bool, int]]) -> None:
    """Restarts begin a runner's counts at zero: the slot's sum is of all its lives and never falls."""
    tally, series = Tally(), (JOBS.name, (TEXT, "ok", "none"))
    life: object = object()
    in_life = total = 0
    before = 0.0
    for restarts, jobs in steps:
        if restarts:
            life, in_life = object(), 0
        in_life, total = in_life + jobs, total + jobs
        tally.take(life, {series: (float(in_life),)})
        now = tally.total()[series][0]
        assert now == total >= before
        before = now


def test_counts_that_fall_within_a_life_make_no_sum_fall() -> None:
    """A runner that says less than before is taken for a new one, whatever it is."""
    tally, life = Tally(), object()
    tally.take(life, read(runner(5).text()))
    tally.take(life, read(runner(2).text()))
    assert tally.total()[JOBS.name, (TEXT, "ok", "none")] == (7.0,)
    tally.take(life, {})
    assert tally.total()[JOBS.name, (TEXT, "ok", "none")] == (7.0,)


async def test_runners_of_a_model_are_summed() -> None:
    """One series for a model, stage and pipeline, however many slots; each model has its own."""
    node = Node(*(FakeClient(runner(n).text) for n in (2, 3, 4)), models=("a", "a", "b"))
    said = await node.scrape()
    assert said.sum(JOBS.name, model="a", outcome="ok") == 5
    assert said.sum(JOBS.name, model="b") == 4
    assert said.sum(f"{STAGE_SECONDS.name}_sum", model="a", stage="run") == 15.0
    assert said.sum(f"{STAGE_SECONDS.name}_bucket", model="a", stage="run", le="+Inf") == 5
    assert said.sum(f"{STAGE_SECONDS.name}_count", model="a", stage="run") == 5
    assert {JOBS.name, STAGE_SECONDS.name} <= said.families()
    assert not any("slot" in sample.labels for sample in said.samples)


async def test_a_runner_that_says_nothing_keeps_what_it_said() -> None:
    """Silent, unreadable or being restarted: the sum stays, the others go on, and the reading is counted."""
    answers: list[Any] = [runner(2).text(), TimeoutError(), b"nonsense{", ValueError("too long")]
    bad, good = FakeClient(lambda: answers.pop(0)), FakeClient(runner(1).text)
    node = Node(bad, good)
    for _ in range(4):
        said = await node.scrape()
        assert said.sum(JOBS.name) == 3
    assert {o: said.sum("reelnet_node_runner_scrapes_total", outcome=o) for o in ("ok", "silent", "unreadable")} == {
        "ok": 5,
        "silent": 1,
        "unreadable": 2,
    }
    node.keepers["slot-0"].client = None
    assert (await node.scrape()).sum(JOBS.name) == 3


async def test_a_fault_over_one_runner_costs_its_reading() -> None:
    """An exception that nobody foresaw: the others' metrics are shown, and a later reading of this one too."""
    answers: list[Any] = [ZeroDivisionError("nobody foresaw this"), runner(2).text()]
    node = Node(FakeClient(lambda: answers.pop(0)), FakeClient(runner(1).text))
    said = await node.scrape()
    assert said.sum(JOBS.name) == 1
    assert said.sum("reelnet_node_runner_scrapes_total", outcome="unreadable") == 1
    assert (await node.scrape()).sum(JOBS.name) == 3


async def test_only_runners_that_could_work_are_asked() -> None:
    """One that starts, loads or waits for its next start is left alone."""
    client = FakeClient(runner().text)
    node = Node(client, state=RunnerState.LOADING)
    assert (await node.scrape()).sum(JOBS.name) == 0
    assert client.calls == 0


async def test_readings_are_shared_by_scrapes_at_the_same_time() -> None:
    """Two Prometheus servers, or one that is impatient, make no more work than one."""
    client = FakeClient(runner().text)
    node = Node(client)
    node.now_s = 100.0
    await asyncio.gather(*(node.metrics.refresh() for _ in range(5)))
    assert client.calls == 1
    await node.scrape()
    assert client.calls == 2


@asynccontextmanager
async def listening(folder: Path, body: Callable[[web.Request], Any]) -> AsyncIterator[RunnerClient]:
    """The true client of something that answers `/metrics` on a Unix socket."""
    app = web.Application()
    app.router.add_get("/metrics", body)
    server = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    await server.setup()
    socket = folder / "runner.sock"
    await web.UnixSite(server, str(socket)).start()
    client = RunnerClient(socket, 1.0)
    try:
        yield client
    finally:
        await client.close()
        await server.cleanup()


async def test_a_hung_runner_does_not_hang_the_scrape(tmp_path: Path) -> None:
    """After its time the others' metrics are shown without it."""
    release = asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async with listening(tmp_path, hang) as client:
        node = Node(client, FakeClient(runner(1).text))
        async with asyncio.timeout(5):
            said = await node.scrape()
        release.set()
    assert said.sum(JOBS.name) == 1
    assert said.sum("reelnet_node_runner_scrapes_total", outcome="silent") == 1


async def test_an_endless_answer_is_not_read_to_its_end(tmp_path: Path) -> None:
    """What is longer than a runner's metrics can be is cut off and counted."""
    sent = 0

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"# " + b"x" * 8000 + b"\n")
            sent += 8003

    async with listening(tmp_path, flood) as client:
        said = await Node(client).scrape()
    assert said.sum("reelnet_node_runner_scrapes_total", outcome="unreadable") == 1
    assert sent < 100 * METRICS_BYTES


async def test_an_error_answer_is_no_metrics(tmp_path: Path) -> None:
    """A status other than 200 is no answer."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=500, text=f"{COUNTED} 5\n")

    async with listening(tmp_path, refuse) as client:
        said = await Node(client).scrape()
    assert said.sum(JOBS.name) == 0
    assert said.sum("reelnet_node_runner_scrapes_total", outcome="silent") == 1
