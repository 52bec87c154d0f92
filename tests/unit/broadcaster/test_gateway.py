"""A job is written down when a node takes it; a request that no node takes is a refusal and leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from broadcaster import gateway as gateway_module
from broadcaster.broadcaster_metrics import BroadcasterMetrics
from broadcaster.gateway import Gateway, GatewayParts
from broadcaster.job import JobProgress, JobRequest, new_job_id, now_ms
from broadcaster.journal import AttemptRow, JobRow, Journal, Mode
from broadcaster.journal_schema import attempts as attempts_table
from broadcaster.journal_schema import job_row
from broadcaster.journal_schema import jobs as jobs_table
from broadcaster.recorder import Recorder
from broadcaster.scores import Scores
from broadcaster.selection import Candidate
from broadcaster.settings import BroadcasterSettings
from reelnet.database.opening import database_url
from reelnet.errors import (
    BusyError,
    CanceledError,
    DeadlineError,
    NodeError,
    ReelnetError,
    RefusedError,
    TransientError,
    UnsupportedError,
    UserError,
)
from reelnet.jobs import Accepted, Capability, Event, JobState, ModelLoad, Started
from reelnet.pipelines import PIPELINES
from reelnet.pricing import Rates
from tests.fakes.exposition import Exposition

CAPABILITY = Capability(
    pipeline="text-to-image",
    model="m",
    schema="text-to-image/sd@1",
    model_digest="d" * 64,
    rates=Rates(),
    slots=1,
    queue_limit=8,
    features=(),
    loras={},
)
BUSY = BusyError("the queue is full", code="queue_full", retry_after_s=3)
Act = ReelnetError | Callable[[JobProgress, Callable[[Event], None]], Awaitable[None]]


async def delivers(job: JobProgress, listener: Callable[[Event], None]) -> None:
    """Takes the job, and does it."""
    await takes(job, listener)
    job.to(JobState.RUNNING)
    listener(Started(cold=False))
    job.charged_nano = job.owed_nano = 7_000_000
    job.timings_s["node_run"] = 1.5004


async def takes(job: JobProgress, listener: Callable[[Event], None]) -> None:
    """Accepts the job."""
    job.to(JobState.ASSIGNED)
    listener(Accepted(0, 0.0, 7))


async def takes_and_fails(job: JobProgress, listener: Callable[[Event], None]) -> None:
    """Accepts the job, and has no place for it after all."""
    await takes(job, listener)
    raise BUSY


async def hangs(job: JobProgress, listener: Callable[[Event], None]) -> None:
    """Says nothing at all."""
    await asyncio.Event().wait()


class ScriptedPool:
    """Nodes in the order in which they are asked, each with what it does when it is."""

    def __init__(self, acts: dict[str, Act]) -> None:
        self.acts = acts
        self.busy: list[str] = []

    def candidates(self, offer: Any, wanted: Any, sample: int, excluded: frozenset[str]) -> list[Candidate]:
        left = [name for name in self.acts if name not in excluded]
        return [
            Candidate(name, CAPABILITY, ModelLoad("text-to-image", "m", 1, 0, 0, True, 0.0), 0, 1.0, 1.0)
            for name in left[:1]
        ]

    def record(self, node_id: str) -> str:
        return node_id

    @contextmanager
    def in_flight(self, record: str) -> Iterator[None]:
        yield

    def refused_as_busy(self, node_id: str, offer: Any) -> None:
        self.busy.append(node_id)

    def changed(self) -> asyncio.Event:
        return asyncio.Event()

    async def attempt(self, context: Any, record: str, candidate: Candidate, job: JobProgress, listener: Any) -> None:
        act = self.acts[record]
        if isinstance(act, ReelnetError):
            raise act
        await act(job, listener)


class Desk:
    """A gateway over a scripted pool, with a true journal and true metrics."""

    def __init__(self, journal: Journal, pool: ScriptedPool, **settings: Any) -> None:
        self.journal, self.pool = journal, pool
        self.registry = CollectorRegistry()
        limits = {"reconnect_wait_s": 0, **settings}
        self.gateway = Gateway(
            GatewayParts(
                settings=BroadcasterSettings.model_validate({"limits": limits, "selection": {"exploration": 0}}),
                identity=SimpleNamespace(id="b"),  # type: ignore[arg-type]
                registry=pool,  # type: ignore[arg-type]
                scores=Scores(),
                media=SimpleNamespace(failing=False),  # type: ignore[arg-type]
                disks=SimpleNamespace(why_full=lambda: None),  # type: ignore[arg-type]
                inspector=SimpleNamespace(),  # type: ignore[arg-type]
                recorder=Recorder(journal),
                metrics=BroadcasterMetrics(self.registry, list),
                rng=random.Random(1),
            )
        )

    async def ask(self, left_s: float = 60) -> ReelnetError | JobProgress:
        """A job's end: what it gave, or how it failed."""
        try:
            return await self.gateway.run(request(left_s))
        except ReelnetError as error:
            return error

    async def rows(self) -> tuple[list[JobRow], list[AttemptRow]]:
        """Everything that was written."""
        await self.journal.record(attempt_barrier(), Mode.WAIT)
        found = await asyncio.to_thread(self.journal._select, jobs_table.select())
        ended = await asyncio.to_thread(self.journal._select, attempts_table.select().order_by("attempt"))
        rows = [AttemptRow(**row) for row in ended]
        return [job_row(row) for row in found], [row for row in rows if row.job_id != "barrier"]

    @property
    def said(self) -> Exposition:
        return Exposition(generate_latest(self.registry).decode())


def attempt_barrier() -> AttemptRow:
    return AttemptRow(job_id="barrier", attempt=0, node_id="", started_ms=0, ended_ms=0, outcome="")


def request(left_s: float = 60) -> JobRequest:
    pipeline = PIPELINES["text-to-image"]
    params = pipeline.parse({"prompt": "a boat", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1})
    return JobRequest(new_job_id(), pipeline, "m", params, (), now_ms() + int(left_s * 1000), None)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens a desk over nodes by name."""

    @asynccontextmanager
    async def open_desk(acts: dict[str, Act], capacity: int = 10_000, **settings: Any) -> AsyncIterator[Desk]:
        pool = ScriptedPool(acts)
        monkeypatch.setattr(gateway_module, "run_attempt", pool.attempt)
        async with Journal(database_url("sqlite", tmp_path / "journal.db"), capacity=capacity) as journal:
            yield Desk(journal, pool, **settings)

    return open_desk


REFUSALS: list[tuple[dict[str, Act], str, str]] = [
    ({}, "no_node", "no_node"),
    ({"a": BUSY}, "full", "queue_full"),
    ({"a": BUSY, "b": BusyError("drains", code="draining")}, "full", "draining"),
    ({"a": BUSY, "b": RefusedError("not you", code="broadcaster")}, "refused", "broadcaster"),
    ({"a": UnsupportedError("no such LoRA", code="lora")}, "refused", "lora"),
]


@pytest.mark.parametrize(("acts", "reason", "code"), REFUSALS)
async def test_a_request_that_no_node_takes(desk: Any, acts: dict[str, Act], reason: str, code: str) -> None:
    """It has no row and counts as a refusal alone, in one line of the log; the app is told when to come again."""
    async with desk(acts) as at:
        with capture_logs() as lines:
            error = await at.ask()
        assert isinstance(error, BusyError)
        assert (error.code, error.http_status, bool(error.retry_after_s)) == (code, 503, True)
        assert await at.rows() == ([], [])
        assert [(line["event"], line["log_level"]) for line in lines] == [("refused", "info")]
        assert (lines[0]["reason"], lines[0]["nodes"]) == (reason, len(acts))
        said = at.said
        assert said.sum("reelnet_refusals_total", reason=reason) == said.sum("reelnet_refusals_total") == 1
        for name in ("jobs_total", "attempts_total", "failovers_total", "jobs_in_progress", "attempts_in_progress"):
            assert said.sum(f"reelnet_{name}") == 0


async def test_a_burst_of_refused_requests_leaves_no_row(desk: Any) -> None:
    """A busy client's thousands cost a counter, and no disk."""
    async with desk({"a": BUSY}) as at:
        with capture_logs() as lines:
            for _ in range(5000):
                assert isinstance(await at.ask(), BusyError)
        assert len(lines) == 5000
        assert await at.rows() == ([], [])
        assert at.said.sum("reelnet_refusals_total", reason="full") == 5000


async def test_a_job_has_all_its_attempts_once_a_node_takes_it(desk: Any) -> None:
    """Also those that were turned away before; each counts once, and is a line in the log."""
    async with desk({"a": BUSY, "b": RefusedError("no"), "c": delivers}) as at:
        with capture_logs() as lines:
            job = await at.ask()
            await asyncio.sleep(0)
        (row,), attempts = await at.rows()
        assert (row.state, row.attempts, row.node_id, row.charged_nano) == ("succeeded", 3, "c", 7_000_000)
        assert [(a.attempt, a.node_id, a.outcome) for a in attempts] == [
            (1, "a", "busy"), (2, "b", "refused"), (3, "c", "ok")
        ]  # fmt: skip
        assert all(a.started_ms <= a.ended_ms for a in attempts)
        assert job.request.id == row.id
        said = at.said
        assert (said.sum("reelnet_jobs_total", outcome="ok"), said.sum("reelnet_refusals_total")) == (1, 0)
        assert (said.sum("reelnet_attempts_total"), said.sum("reelnet_failovers_total")) == (3, 2)
        assert [line["event"] for line in lines] == ["attempt failed", "attempt failed", "job"]


async def test_whose_a_job_is_stands_in_row_and_log(desk: Any) -> None:
    """The key's id, never the key, with what its node worked and what it is charged."""
    async with desk({"a": delivers}) as at:
        with capture_logs() as lines:
            await at.gateway.run(replace(request(), key_id="0123456789ab", key_name="school"))
            await at.ask()
            await asyncio.sleep(0)
        rows, _ = await at.rows()
        assert sorted((row.key_id or "", row.run_ms, row.charged_nano) for row in rows) == [
            ("", 1500, 7_000_000), ("0123456789ab", 1500, 7_000_000)
        ]  # fmt: skip
        assert [(line["key"], line["seconds"], line["price"]) for line in lines] == [
            ("0123456789ab", 1.5, "0.007"), (None, 1.5, "0.007")
        ]  # fmt: skip
        assert at.said.sum("reelnet_key_jobs_total", key="school", outcome="ok") == 1


async def test_a_job_has_a_row_while_it_runs(desk: Any) -> None:
    """From the moment at which a node takes it, so that a crash is seen."""
    taken, go = asyncio.Event(), asyncio.Event()

    async def works(job: JobProgress, listener: Callable[[Event], None]) -> None:
        await takes(job, listener)
        taken.set()
        await go.wait()
        job.to(JobState.RUNNING)

    async with desk({"a": works}) as at:
        asking = asyncio.create_task(at.ask())
        await asyncio.wait([asking, asyncio.create_task(taken.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert not asking.done(), asking.result()
        (row,), _ = await at.rows()
        assert (row.state, row.attempts) == (JobState.ASSIGNED, 1)
        go.set()
        await asking
        (row,), _ = await at.rows()
        assert row.state is JobState.SUCCEEDED


FAILURES: list[tuple[dict[str, Act], str, str, list[str]]] = [
    ({"a": NodeError("broke")}, "failed", "node", ["node"]),
    ({"a": BUSY, "b": UserError("bad"), "c": UserError("bad")}, "failed", "user", ["busy", "user", "user"]),
    ({"a": TransientError("lost"), "b": BUSY}, "failed", "busy", ["transient", "busy"]),
    ({"a": takes_and_fails}, "failed", "busy", ["busy"]),
    ({"a": RefusedError("unsafe", code="nsfw")}, "failed", "refused", ["refused"]),
]


@pytest.mark.parametrize(("acts", "state", "failure", "outcomes"), FAILURES)
async def test_a_job_that_a_node_failed_has_a_row(
    desk: Any, acts: dict[str, Act], state: str, failure: str, outcomes: list[str]
) -> None:
    """Whatever it ends with: a node has taken it, or has said more than that it does not."""
    async with desk(acts) as at:
        assert isinstance(await at.ask(), ReelnetError)
        (row,), attempts = await at.rows()
        assert (row.state, row.failure_class) == (state, failure)
        assert [a.outcome for a in attempts] == outcomes
        said = at.said
        assert said.sum("reelnet_jobs_total", class_=failure) == said.sum("reelnet_jobs_total") == 1
        assert (said.sum("reelnet_attempts_total"), said.sum("reelnet_refusals_total")) == (len(outcomes), 0)


async def test_a_job_that_nobody_answers_expires(desk: Any) -> None:
    """It is no refusal: its end is written, behind the attempts that were turned away."""
    async with desk({"a": BUSY, "b": hangs}) as at:
        assert isinstance(await at.ask(left_s=0.05), DeadlineError)
        (row,), attempts = await at.rows()
        assert (row.state, row.failure_class, [a.outcome for a in attempts]) == ("expired", "deadline", ["busy"])
        assert at.said.sum("reelnet_jobs_total", outcome="expired") == 1
        assert at.said.sum("reelnet_attempts_total") == 2


@pytest.mark.parametrize(("limits", "capacity", "reason"), [({"jobs": 1}, 10, "jobs"), ({}, 0, "journal_full")])
async def test_a_request_that_is_not_let_in(desk: Any, limits: dict[str, int], capacity: int, reason: str) -> None:
    """No node is asked."""
    async with desk({"a": hangs}, capacity=capacity, **limits) as at:
        first = asyncio.create_task(at.ask())
        await asyncio.sleep(0)
        error = await at.ask() if limits else await first
        assert (error.code, error.http_status) == (reason, 503)
        assert at.said.sum("reelnet_refusals_total", reason=reason) == 1
        first.cancel()
        await asyncio.wait([first])
        assert at.said.sum("reelnet_jobs_in_progress") == 0


@pytest.mark.parametrize("given_up", [DeadlineError("no time left"), CanceledError("nobody wants it")])
async def test_a_node_that_gives_a_job_up_in_its_time_has_failed_it(desk: Any, given_up: ReelnetError) -> None:
    """Its word that the time is over, or that the app left, is no excuse while neither is so; another node is asked."""
    async with desk({"a": given_up, "b": delivers}) as at:
        assert isinstance(await at.ask(left_s=60), JobProgress)
        _, attempts = await at.rows()
        assert [(row.node_id, row.outcome) for row in attempts] == [("a", "node"), ("b", "ok")]
        assert at.gateway._p.scores.reputation("a") < 1
