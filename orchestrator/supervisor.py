"""Keeps one slot's runner alive: start or adopt, wait until ready, watch, restart with backoff for ever.

Which device the runner is on is not decided here: the keeper puts it there (`put`) and takes it away (`take`).
"""

from __future__ import annotations

import asyncio
import enum
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from orchestrator.engine import EngineError, RunnerEngine, RunnerExit, RunnerHandle, RunnerSpec
from orchestrator.runner_answers import AnswerError, RunnerInfo
from orchestrator.runner_client import NO_ANSWER, RunnerClient
from orchestrator.runner_state import RunnerState, advance, backoff_s
from orchestrator.settings import Limits
from orchestrator.shelter import sheltered
from orchestrator.slots import Slot, SlotTable
from reelnet.errors import printable

READY_POLL_S = 0.05
HEALTH_POLL_S = 10.0
LOG_TAIL_LINES = 5
LOG_LINE_CHARS = 500
LAST_WORD_S = 2.0
"""So long the engine gets to say how a runner ended that does not do what it should."""
log = structlog.get_logger()


class End(enum.StrEnum):
    """Why a runner ended. `KILLED`, `MEMORY` and `DEVICE` are the kernel's and the device's doing, `FAULT` is ours."""

    ENGINE = "engine"
    LOAD = "load"
    EXITED = "exited"
    KILLED = "killed"
    MEMORY = "memory"
    DEVICE = "device"
    SILENT = "silent"
    UNFIT = "unfit"
    STUCK = "stuck"
    FAULT = "fault"
    TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Ended:
    """How one life of a runner ended: the kind, and a sentence for the operator."""

    kind: End
    text: str


@dataclass(slots=True)
class Surroundings:
    """What supervisors work with, and who hears of them. `limits` may be other ones after a reload."""

    engine: RunnerEngine
    table: SlotTable
    limits: Limits
    rng: random.Random
    on_ready: Callable[[Slot, RunnerInfo], None]
    on_load: Callable[[Slot, float], None] = lambda slot, seconds: None
    on_memory: Callable[[Slot, int], None] = lambda slot, size: None
    on_end: Callable[[Slot, Ended], None] = lambda slot, ended: None
    on_gone: Callable[[Slot], None] = lambda slot: None


@dataclass(frozen=True, slots=True)
class Post:
    """Where a runner is to run: the spec that names the device, and the runner to adopt, if one is there."""

    spec: RunnerSpec
    running: RunnerHandle | None = None


class Supervisor:
    """One slot's runner, through all its starts.

    `began`: when its latest life did; `loaded`: whether it was ever ready in that life; `again_at`: the end of its
    latest pause. Times are the clock's.
    """

    def __init__(self, slot: Slot, around: Surroundings, clock: Callable[[], float] = time.monotonic) -> None:
        self.slot = slot
        self.state = RunnerState.STOPPED
        self.since = clock()
        self.reason = "not started"
        self.restarts = 0
        self.adopted = False
        self.failures = 0
        self.began = clock()
        self.again_at = 0.0
        self.loaded = False
        self.client: RunnerClient | None = None
        self.handle: RunnerHandle | None = None
        self._around = around
        self._clock = clock
        self._post: Post | None = None
        self._moved = asyncio.Event()
        self._quarantine = False
        self._end: asyncio.Future[Ended] | None = None
        self._suspected = asyncio.Event()

    @property
    def crash_loop(self) -> bool:
        """Whether the runner fails again and again without ever getting ready."""
        return self.failures >= self._around.limits.crash_loop

    def put(self, device: str, post: Post) -> None:
        """Gives the runner its device: it starts there, or goes on there."""
        self.slot.device = device
        self.slot.leaving = False
        self._post = post
        self._quarantine = False
        self._moved.set()

    def take(self, reason: str, *, quarantine: bool = False) -> None:
        """Takes the runner from its device: it is stopped, and waits for `put`. `on_gone` tells when it is gone."""
        self._post = None
        self._quarantine = quarantine
        self.restart(reason, End.TAKEN)
        self._moved.set()

    async def run(self) -> None:
        """Starts the runner wherever it is put, again after each failure, until this task is canceled."""
        try:
            while True:
                await self._until_put()
                self._to(RunnerState.STARTING)
                ended = await self._sheltered_life()
                self.reason = ended.text
                if ended.kind is not End.TAKEN:
                    await self._failed(ended)
                if self._post is None or self.state is RunnerState.STOPPING:
                    self._leave()
        finally:
            if self.state in (RunnerState.BACKOFF, RunnerState.STOPPING, RunnerState.QUARANTINED):
                self._to(RunnerState.STOPPED)

    async def _sheltered_life(self) -> Ended:
        """One life, whatever goes wrong in it, also in what hears of it: a node does not end of one runner."""
        ended = Ended(End.FAULT, "the node failed to keep this runner; its log says how")
        with sheltered("a runner's watch failed", slot=self.slot.name, model=self.slot.model):
            ended = await self._one_life()
        if self.state is not RunnerState.STOPPING:
            self._to(RunnerState.STOPPING)
        return ended

    def restart(self, reason: str, kind: End = End.STUCK) -> None:
        """Gives this runner up: no job gets it from now on, it is stopped and another is started."""
        self._around.table.set_ready(self.slot, False)
        if self._end and not self._end.done():
            self._end.set_result(Ended(kind, reason))

    def suspect(self) -> None:
        """A job failed here: look at once whether the runner is still fit."""
        self._suspected.set()

    def busy(self, busy: bool) -> None:
        """The node's word that a job holds the runner, or no longer does."""
        if self.state in (RunnerState.READY, RunnerState.BUSY):
            self._to(RunnerState.BUSY if busy else RunnerState.READY)

    async def _until_put(self) -> None:
        while self._post is None:
            if self.slot.device:  # put, and taken before it was started
                self._leave()
            self._moved.clear()
            await self._moved.wait()

    def _leave(self) -> None:
        """The runner is gone from its device; it may have been put on one again while it stopped."""
        self._to(RunnerState.QUARANTINED if self._quarantine else RunnerState.STOPPED)
        self.failures = 0
        if self._post is None:
            self.slot.device = None
            self.slot.leaving = False
        with sheltered("a runner's leave was not taken in", slot=self.slot.name):
            self._around.on_gone(self.slot)

    async def _failed(self, ended: Ended) -> None:
        """Counts a failure, says so, and waits before the next start, unless the keeper takes the runner away."""
        self.failures += 1
        self.restarts += 1
        self._moved.clear()
        with sheltered("a runner's end was not taken in", slot=self.slot.name):
            self._around.on_end(self.slot, ended)
        if self._post is None:
            return
        self._to(RunnerState.BACKOFF)
        limits = self._around.limits
        pause = backoff_s(
            self.failures, limits.restart_backoff_s, limits.restart_backoff_max_s, self._around.rng.random()
        )
        if self.crash_loop:
            self.reason = f"crash loop, {self.failures} failures in a row: {ended.text}"
        log.warning(
            "crash loop" if self.crash_loop else "runner failed",
            slot=self.slot.name, model=self.slot.model, kind=ended.kind, reason=ended.text, again_in_s=round(pause, 1),
        )  # fmt: skip
        self.again_at = self._clock() + pause
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._moved.wait()
        self.again_at = 0.0

    async def _one_life(self) -> Ended:
        """From a start, or an adoption, to an end; returns why it ended."""
        assert self._post is not None
        limits, spec = self._around.limits, self._post.spec
        self.began, self.loaded = self._clock(), False
        self._end = asyncio.get_running_loop().create_future()
        handle, self._post = self._post.running, Post(spec)
        adopted = handle is not None
        try:
            handle = handle or await self._around.engine.start(spec)
        except EngineError as error:
            self._to(RunnerState.STOPPING)
            return Ended(End.ENGINE, str(error)) if self._post else Ended(End.TAKEN, self._said())
        self.handle = handle
        self.client = RunnerClient(handle.socket, limits.cancel_s)
        try:
            return await self._first_of(self._live(self.client, adopted=adopted), self._exited(handle), self._asked())
        finally:
            self._around.table.set_ready(self.slot, False)
            self._to(RunnerState.STOPPING)
            await self.client.close()
            self.client = None
            await asyncio.shield(self._around.engine.stop(handle, limits.stop_s))
            self.handle = None

    def _said(self) -> str:
        return self._end.result().text if self._end and self._end.done() else "taken"

    async def _live(self, client: RunnerClient, *, adopted: bool) -> Ended:
        began = self._clock()
        try:
            async with asyncio.timeout(self._around.limits.load_s):
                if adopted and (failure := await self._until_free(client)):
                    return Ended(End.SILENT, failure)
                failure = await self._until_ready(client)
        except TimeoutError:
            return Ended(End.LOAD, f"the model was not loaded within {self._around.limits.load_s:g} s")
        if failure:
            return Ended(End.LOAD, failure)
        try:
            self._around.on_ready(self.slot, await client.info())
        except NO_ANSWER as error:
            return Ended(End.SILENT, f"the runner does not say what it serves ({_told(error)})")
        self._count_start(self._clock() - began, adopted=adopted)
        self.failures = 0
        self.loaded = True
        self.reason = ""
        self._to(RunnerState.READY)
        self._around.table.set_ready(self.slot, True)
        log.info("runner ready", slot=self.slot.name, model=self.slot.model, device=self.slot.device, adopted=adopted)
        return await self._watch_health(client)

    def _count_start(self, seconds: float, *, adopted: bool) -> None:
        self.adopted = adopted
        if not adopted:
            self._around.on_load(self.slot, seconds)

    async def _until_free(self, client: RunnerClient) -> str:
        """Returns "" when an adopted runner has left the job of its former node, else why it cannot be adopted."""
        try:
            async with asyncio.timeout(self._around.limits.cancel_s):
                while (await client.health()).state == "BUSY":  # noqa: ASYNC110  (another process is asked)
                    await asyncio.sleep(READY_POLL_S)
        except NO_ANSWER as error:
            return f"a runner of an earlier start is not fit for adoption ({_told(error)})"
        return ""

    async def _until_ready(self, client: RunnerClient) -> str:
        """Returns "" when the runner is ready, else why it never will be."""
        while True:
            try:
                health = await client.health()
            except NO_ANSWER:
                health = None  # it does not listen yet
            match health.state if health else None:
                case "READY" | "BUSY":
                    return ""
                case "SETUP_FAILED" | "DEFUNCT":
                    assert health is not None
                    return health.reason or health.state
                case "LOADING" if self.state is RunnerState.STARTING:
                    self._to(RunnerState.LOADING)
            await asyncio.sleep(READY_POLL_S)

    async def _watch_health(self, client: RunnerClient) -> Ended:
        """Asks now and then, which also tells the runner that its node is there; returns what is wrong."""
        while True:
            try:
                health = await client.health()
            except NO_ANSWER as error:
                return Ended(End.SILENT, f"the runner does not answer /health ({_told(error)})")
            if health.state not in ("READY", "BUSY"):
                return Ended(End.UNFIT, health.reason or health.state)
            if health.memory_bytes:
                self._around.on_memory(self.slot, health.memory_bytes)
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_POLL_S):
                    await self._suspected.wait()
            self._suspected.clear()

    async def _exited(self, handle: RunnerHandle) -> Ended:
        ended = await self._around.engine.wait(handle)
        return Ended(_kind(ended), explain(ended))

    async def _asked(self) -> Ended:
        assert self._end is not None
        return await asyncio.shield(self._end)

    async def _first_of(self, live: Awaitable[Ended], exited: Awaitable[Ended], asked: Awaitable[Ended]) -> Ended:
        """What the first of the ways to end says; the others are canceled.

        A runner that fell silent, or whose job did not stop, has mostly ended: how it did says more.
        """
        tasks = [asyncio.ensure_future(way) for way in (live, exited, asked)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            ended = next(task for task in reversed(tasks) if task.done()).result()
            if ended.kind in (End.SILENT, End.STUCK):
                self._around.table.set_ready(self.slot, False)
                said, _ = await asyncio.wait(tasks[1:2], timeout=LAST_WORD_S)
                return next((task.result() for task in said), ended)
            return ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _to(self, state: RunnerState) -> None:
        if state is not self.state:
            self.state = advance(self.state, state)
            self.since = self._clock()


def explain(ended: RunnerExit) -> str:
    """A runner's end in a sentence, with its last words."""
    how = f"killed by signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
    if ended.oom_killed:
        how = "the kernel killed it: out of host memory"
    tail = " | ".join(printable(line, LOG_LINE_CHARS) for line in ended.tail.splitlines()[-LOG_TAIL_LINES:])
    return f"the runner ended ({ended.why or how}){': ' + tail if tail else ''}"


def _told(error: Exception) -> str:
    """What is wrong with an answer, or what was in the way of one."""
    return str(error) if isinstance(error, AnswerError) else type(error).__name__


def _kind(ended: RunnerExit) -> End:
    if ended.oom_killed:
        return End.MEMORY
    if ended.why:
        return End.ENGINE
    return End.KILLED if ended.code < 0 else End.EXITED
