"""What an attempt tells who follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.attempts import Attempt, Site, SlotRunner
from orchestrator.runner_events import RunnerDone, RunnerEvent, RunnerStarted, Tick
from orchestrator.settings import Limits
from orchestrator.slots import Slot, SlotTable
from orchestrator.spool import Spool, SpooledFile
from reelnet.errors import FailureClass
from reelnet.jobs import BroadcasterId, Event, InputRef, JobId, NodeId, Preview, Progress, Ticket
from reelnet.pipelines import Work
from reelnet.pricing import Rates

DIGEST = "d1" * 32
TICKET = Ticket(
    job_id=JobId("j"), attempt=1, broadcaster_id=BroadcasterId("b"), node_id=NodeId("n"), node_epoch="e",
    pipeline="text-to-image", schema="text-to-image/sd@3", model="m", model_digest=DIGEST, params=b'{"seed":7}',
    inputs=(), work=Work(1, 1), rates=Rates(), ceiling_nano=0, deadline_ms=60_000, expires_ms=60_000,
)  # fmt: skip


class ToldAtOnce:
    """A runner that says all of a job but its end in one moment, and the end when it is let."""

    def __init__(self, *events: RunnerEvent) -> None:
        self.ended = False
        self.let_end = asyncio.Event()
        self.given_up = ""
        self.then: RunnerEvent = RunnerDone({}, DIGEST, {})
        self._events: list[RunnerEvent] = list(events)

    @asynccontextmanager
    async def run(self, *_: Any) -> AsyncIterator[ToldAtOnce]:
        yield self

    def told(self) -> Iterator[RunnerEvent]:
        events, self._events = self._events, []
        yield from events

    async def wait(self) -> None:
        await self.let_end.wait()
        await asyncio.sleep(0)
        self._events = [self.then]

    def give_up(self, reason: str) -> None:
        self.given_up = reason


def _attempt(
    runner: ToldAtOnce, home: Path, ticket: Ticket = TICKET, observe: Callable[..., None] = lambda *_: None,
    limits: Limits = Limits(hold_s=0, progress_s=0.02),  # noqa: B008 - frozen
) -> Attempt:  # fmt: skip
    table = SlotTable([Slot("slot", "m", "a", ready=True)], {"m": 1}, lambda: 0.0)
    client: Any = runner

    def nothing(*_: Any) -> None:
        return None

    site = Site(
        table=table,
        spool=Spool(home, 1000),
        limits=limits,
        runner_of=lambda slot: SlotRunner(client, nothing, nothing, nothing),
        now_ms=lambda: 0,
        observe=observe,
        waited=nothing,
        loading=nothing,
        sign=nothing,
    )
    return Attempt(ticket, b"", table.reserve("m", 1.0), 0, site)


async def test_the_newest_preview_is_told_beside_the_newest_progress(tmp_path: Path) -> None:
    """Neither takes the other's place, in whichever order they come; older ones are left out."""
    said = (RunnerStarted(), Progress("denoise", 1, 9), Preview(b"old", 0, 1, 9), Preview(b"new", 0, 2, 9))
    runner = ToldAtOnce(*said, Progress("denoise", 2, 9), Progress("denoise", 3, 9))
    attempt = _attempt(runner, tmp_path / "spool")
    heard: list[Event] = []

    async def tell(events: list[Event]) -> None:
        heard.extend(events)
        if any(isinstance(event, Preview) for event in events):
            runner.let_end.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(attempt.run())
        await attempt.follow(tell)
    assert [event for event in heard if isinstance(event, Preview)] == [Preview(b"new", 0, 2, 9)]
    assert [event for event in heard if isinstance(event, Progress)] == [Progress("denoise", 3, 9)]


async def test_a_preview_is_history_before_a_milestone(tmp_path: Path) -> None:
    """When the job is done, its end is told and nothing of the way there."""
    runner = ToldAtOnce(RunnerStarted(), Preview(b"late", 0, 8, 9))
    runner.let_end.set()
    attempt = _attempt(runner, tmp_path / "spool")
    heard: list[Event] = []

    async def tell(events: list[Event]) -> None:
        heard.extend(events)

    async with asyncio.timeout(20):
        await attempt.run()
        await attempt.follow(tell)
    assert [type(event).__name__ for event in heard] == ["Accepted", "Started", "Done"]


async def test_a_file_that_cannot_be_erased_keeps_no_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its disk says: the rest of the job goes, and its task ends as it should."""
    inputs = tuple(InputRef(name, 4, "", "image/png") for name in ("image", "mask", "video"))
    attempt = _attempt(ToldAtOnce(), tmp_path / "spool", replace(TICKET, inputs=inputs))
    for index in range(3):
        await attempt._inputs[index].write(b"data")
    erase, failing = SpooledFile.erase, attempt._inputs[0]

    def fails_once(file: SpooledFile) -> None:
        erase(file)
        if file is failing:
            raise OSError("Input/output error")

    monkeypatch.setattr(SpooledFile, "erase", fails_once)
    attempt.erase()
    assert [file.size for file in attempt._inputs] == [0, 0, 0]


UPSCALE = replace(TICKET, pipeline="upscale", schema="upscale/x4@3", work=Work(64, 1024))


@pytest.mark.parametrize(
    ("ticket", "told", "failure", "observed"),
    [
        (UPSCALE, UPSCALE.work, None, True),
        (UPSCALE, None, None, False),
        (UPSCALE, Work(1, 1024), "work", False),
        (TICKET, None, None, True),
    ],
)
async def test_only_work_that_the_node_knows_teaches(
    tmp_path: Path, ticket: Ticket, told: Work | None, failure: str | None, observed: bool
) -> None:
    """What follows from the input is the runner's finding: another ends the job, and a mere claim is not learned."""
    runner = ToldAtOnce(RunnerStarted(told))
    runner.let_end.set()
    seen: list[Ticket] = []
    attempt = _attempt(runner, tmp_path / "spool", ticket, lambda ticket, *_: seen.append(ticket))
    await attempt.run()
    assert (attempt.failure and attempt.failure.code) == failure
    assert bool(seen) is observed


async def test_a_runner_that_only_says_it_is_busy_hangs(tmp_path: Path) -> None:
    """Ticks that claim progress which no event shows do not keep a job alive."""
    runner = ToldAtOnce(RunnerStarted())
    runner.then = Tick(0.0)
    runner.let_end.set()
    limits = Limits(hold_s=0, stall_s=0.02, load_s=0.02)
    attempt = _attempt(runner, tmp_path / "spool", limits=limits)
    async with asyncio.timeout(20):
        await attempt.run()
    assert attempt.failure
    assert (attempt.failure.code, "job hung" in runner.given_up) == ("hung", True)


async def test_other_weights_than_the_tickets_fail_the_job(tmp_path: Path) -> None:
    """A runner that was started with another model delivers nothing, and nothing is signed for."""
    runner = ToldAtOnce(RunnerStarted())
    runner.then = RunnerDone({}, "e2" * 32, {})
    runner.let_end.set()
    attempt = _attempt(runner, tmp_path / "spool")
    async with asyncio.timeout(20):
        await attempt.run()
    assert attempt.failure
    assert (attempt.failure.failure, attempt.failure.code) == (FailureClass.NODE, "digest")
