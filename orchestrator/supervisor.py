"""Keeps one slot's runner alive: start, wait until ready, watch, restart with backoff for ever."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from orchestrator.engine import EngineError, RunnerEngine, RunnerExit, RunnerHandle, RunnerSpec
from orchestrator.runner_client import NO_ANSWER, RunnerClient, RunnerInfo
from orchestrator.runner_state import RunnerState, advance, backoff_s
from orchestrator.settings import Limits
from orchestrator.slots import Slot, SlotTable

READY_POLL_S = 0.05
HEALTH_POLL_S = 10.0
LOG_TAIL_LINES = 5
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a supervisor works with: engine, slot table, limits, chance, and who hears that a runner is ready."""

    engine: RunnerEngine
    table: SlotTable
    limits: Limits
    rng: random.Random
    on_ready: Callable[[Slot, RunnerInfo], None]


class Supervisor:
    """One slot's runner, through all its starts."""

    def __init__(self, slot: Slot, spec: RunnerSpec, around: Surroundings) -> None:
        self.slot = slot
        self.spec = spec
        self.state = RunnerState.STOPPED
        self.reason = "not started"
        self.restarts = 0
        self.client: RunnerClient | None = None
        self._around = around
        self._failures = 0
        self._restart_reason: asyncio.Future[str] | None = None
        self._suspected = asyncio.Event()

    async def run(self) -> None:
        """Starts the runner, again after each failure, until this task is canceled."""
        try:
            while True:
                self._to(RunnerState.STARTING)
                self.reason = await self._one_life()
                self._failures += 1
                self.restarts += 1
                await self._pause()
        finally:
            if self.state in (RunnerState.BACKOFF, RunnerState.STOPPING):
                self._to(RunnerState.STOPPED)

    def restart(self, reason: str) -> None:
        """Gives this runner up: no job gets it from now on, it is stopped and another is started."""
        self._around.table.set_ready(self.slot, False)
        if self._restart_reason and not self._restart_reason.done():
            self._restart_reason.set_result(reason)

    def suspect(self) -> None:
        """A job failed here: look at once whether the runner is still fit."""
        self._suspected.set()

    def busy(self, busy: bool) -> None:
        """The node's word that a job holds the runner, or no longer does."""
        if self.state in (RunnerState.READY, RunnerState.BUSY):
            self._to(RunnerState.BUSY if busy else RunnerState.READY)

    async def _one_life(self) -> str:
        """From a start to an end; returns why it ended."""
        limits = self._around.limits
        try:
            handle = await self._around.engine.start(self.spec)
        except EngineError as error:
            self._to(RunnerState.STOPPING)
            return str(error)
        self._restart_reason = asyncio.get_running_loop().create_future()
        self.client = RunnerClient(handle.socket, limits.cancel_s)
        try:
            return await self._first_of(self._live(self.client), self._exited(handle), self._asked())
        finally:
            self._around.table.set_ready(self.slot, False)
            self._to(RunnerState.STOPPING)
            await self.client.close()
            self.client = None
            await asyncio.shield(self._around.engine.stop(handle, limits.stop_s))

    async def _live(self, client: RunnerClient) -> str:
        try:
            async with asyncio.timeout(self._around.limits.load_s):
                failure = await self._until_ready(client)
        except TimeoutError:
            return f"the model was not loaded within {self._around.limits.load_s:g} s"
        if failure:
            return failure
        try:
            info = await client.info()
        except NO_ANSWER as error:
            return f"the runner does not say what it serves ({type(error).__name__})"
        self._failures = 0
        self.reason = ""
        self._to(RunnerState.READY)
        self._around.on_ready(self.slot, info)
        self._around.table.set_ready(self.slot, True)
        log.info("runner ready", slot=self.slot.name, model=self.slot.model, device=self.slot.device)
        return await self._watch_health(client)

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

    async def _watch_health(self, client: RunnerClient) -> str:
        """Asks now and then, which also tells the runner that its node is there; returns what is wrong."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_POLL_S):
                    await self._suspected.wait()
            self._suspected.clear()
            try:
                health = await client.health()
            except NO_ANSWER as error:
                return f"the runner does not answer /health ({type(error).__name__})"
            if health.state not in ("READY", "BUSY"):
                return health.reason or health.state

    async def _exited(self, handle: RunnerHandle) -> str:
        return _explain(await self._around.engine.wait(handle))

    async def _asked(self) -> str:
        assert self._restart_reason is not None
        return await self._restart_reason

    async def _first_of(self, *ways: Awaitable[str]) -> str:
        """What the first of several ways to end says; the others are canceled."""
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(task for task in reversed(tasks) if task.done()).result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pause(self) -> None:
        limits = self._around.limits
        self._to(RunnerState.BACKOFF)
        pause = backoff_s(
            self._failures, limits.restart_backoff_s, limits.restart_backoff_max_s, self._around.rng.random()
        )
        log.warning("runner failed", slot=self.slot.name, model=self.slot.model, reason=self.reason, again_in_s=pause)
        await asyncio.sleep(pause)

    def _to(self, state: RunnerState) -> None:
        if state is not self.state:
            self.state = advance(self.state, state)


def _explain(ended: RunnerExit) -> str:
    how = f"killed by signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
    tail = " | ".join(ended.tail.splitlines()[-LOG_TAIL_LINES:])
    return f"the runner ended ({how}){': ' + tail if tail else ''}"
