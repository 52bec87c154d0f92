"""One job under way: what it has done, whether it shall stop, and the events for the one who reads its stream."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from reelnet.errors import CanceledError, DeadlineError, NodeError, OutOfMemoryError, ReelnetError
from runner.backend import RunnerJob
from runner.events import Event, Progress, Started

Clock = Callable[[], float]


class Activity:
    """A job between its permit and its last event. It is the Reporter that the backend gets.

    Threads write events, the event loop reads them. The number of events is bounded by the job itself: its steps, its
    frames and the bytes of its outputs. `canceled` is set as soon as the job shall stop, whatever the reason.
    """

    def __init__(self, job: RunnerJob, loop: asyncio.AbstractEventLoop, clock: Clock = time.monotonic) -> None:
        self.job = job
        self.canceled: threading.Event = job.canceled
        self.error: ReelnetError | None = None
        self.progress: Progress | None = None
        self.timings_s: dict[str, float] = {}
        self._loop = loop
        self._clock = clock
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._lock = threading.Lock()
        self._began = self._moved = self._mark = clock()

    @property
    def idle_s(self) -> float:
        """Seconds since the job last moved."""
        return self._clock() - self._moved

    @property
    def run_s(self) -> float:
        """Seconds since the job began."""
        return self._clock() - self._began

    def begin(self) -> None:
        """The model thread takes the job up."""
        self._moved = self._mark = self._clock()
        self.emit(Started())

    def stop(self, reason: ReelnetError) -> None:
        """Tells the job to stop at its next step; of several reasons the first one counts."""
        with self._lock:
            self.error = self.error or reason
        self.canceled.set()

    def cancel(self, message: str) -> None:
        """Stops the job because nobody wants it any more."""
        self.stop(CanceledError(message))

    def step(self, stage: str, step: int, total: int) -> None:
        """Reporter.step: the time since the report before is the stage's."""
        now = self._clock()
        self.spend(stage, now - self._mark)
        self._mark = now
        self.advance(stage, step, total)

    def advance(self, stage: str, step: int, total: int) -> None:
        """Records progress. Raises the reason to stop, if there is one."""
        self.check()
        self._moved = self._clock()
        self.progress = Progress(stage, step, total)
        self.emit(self.progress)

    def check(self) -> None:
        """Raises the reason to stop, if there is one: canceled, failed elsewhere, out of time."""
        limit_s = self.job.deadline_s
        if limit_s is not None and self.run_s > limit_s:
            self.stop(DeadlineError(f"the job's {limit_s:g} s were over"))
        if self.error is not None:
            raise self.error

    def spend(self, stage: str, seconds: float) -> None:
        """Adds to a stage's time."""
        self.timings_s[stage] = self.timings_s.get(stage, 0.0) + seconds

    def resume(self) -> None:
        """Leaves the time since the last report out of every stage: the model thread was waiting."""
        self._mark = self._clock()

    def emit(self, event: Event) -> None:
        """Hands an event to the reader, from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def next_event(self) -> Event:
        """The next event for the reader."""
        return await self._events.get()


def as_failure(error: Exception) -> ReelnetError:
    """What a backend's exception means to the one who asked. A stranger's text may hold the prompt: dropped."""
    if isinstance(error, ReelnetError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemoryError("the job did not fit into the memory that is free here; ask for a smaller one")
    kind = type(error).__name__
    return NodeError(f"the model failed with {kind}", code=kind)
