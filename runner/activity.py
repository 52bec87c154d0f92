"""One job under way: what it has done, whether it shall stop, and the events for the one who reads its stream."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from itertools import zip_longest

from reelnet.errors import CanceledError, DeadlineError, NodeError, OutOfMemoryError, ReelnetError, UserError
from reelnet.warnings import NO_PREVIEW, JobWarning
from runner.backend import RunnerJob, Sketch
from runner.events import TERMINAL, Event, Preview, Progress, Started

Clock = Callable[[], float]
Show = Callable[[Preview], None]
Exhibit = Callable[[RunnerJob, Sketch, Show], None]
"""Makes a preview of a sketch, on another thread, and shows it; or does not get round to it."""


class Activity:
    """A job between its permit and its last event. It is the Reporter that the backend gets.

    Threads write events, the event loop reads them. The number of events is bounded by the job itself: its steps, its
    frames and the bytes of its outputs. `canceled` is set as soon as the job shall stop, whatever the reason.
    """

    def __init__(
        self,
        job: RunnerJob,
        loop: asyncio.AbstractEventLoop,
        clock: Clock = time.monotonic,
        exhibit: Exhibit = lambda job, sketch, show: None,
    ) -> None:
        self.job = job
        self.canceled: threading.Event = job.canceled
        self.error: ReelnetError | None = None
        self.progress: Progress | None = None
        self.timings_s: dict[str, float] = {}
        self.warnings: tuple[JobWarning, ...] = ()
        self.encodes = False
        """Whether an output of it went to the media thread, which all that follows has to follow."""
        self._loop = loop
        self._clock = clock
        self._exhibit = exhibit
        self._events: deque[Event] = deque()
        self._preview: Preview | None = None
        """The newest that the reader has not seen."""
        self._ended = self._sketched = False
        self._arrived = asyncio.Event()
        self._announced = False
        """Whether the reader needs no word of what comes: it has been told, or looks by itself."""
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
        work = self.job.work
        self.emit(Started(work.pixel_steps, work.output_pixels))

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

    def sketch(self, sketch: Sketch) -> None:
        """Reporter.sketch."""
        self._sketched = True
        self._exhibit(self.job, sketch, self.show)

    def unseen(self) -> None:
        """After the last step: a warning where the job asked for previews, and had no step that one was due at."""
        if self.job.preview_steps and not self._sketched and NO_PREVIEW in self.job.kind.warns:
            text = "No preview was made: none was due before the last step, or this model or its policy shows none."
            self.warn(JobWarning(NO_PREVIEW, text, "preview_steps"))

    def warn(self, warning: JobWarning) -> None:
        """Reporter.warn."""
        if warning.code not in self.job.kind.warns:
            raise ValueError(f"{self.job.kind.schema} declares no warning {warning.code!r}")
        if warning not in self.warnings:
            self.warnings += (warning,)

    def show(self, preview: Preview) -> None:
        """Hands a preview to the reader in the place of an older one; of a job that has ended none is told."""
        with self._lock:
            if self._ended:
                return
            self._preview = preview
        self._announce()

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
        """Hands an event to the reader, from any thread.

        The loop is woken by the first that it has not seen yet, and by the last of all.
        """
        last = isinstance(event, TERMINAL)
        if last:
            with self._lock:
                self._ended, self._preview = True, None
        self._events.append(event)
        self._announce(last=last)

    def _announce(self, *, last: bool = False) -> None:
        if (not self._announced or last) and not self._loop.is_closed():
            self._announced = True
            self._loop.call_soon_threadsafe(self._arrived.set)

    def wake(self) -> None:
        """Ends the reader's wait, on its loop."""
        self._arrived.set()

    async def first_events(self, hold_s: float) -> list[Event]:
        """What happened in the first `hold_s` seconds: a job that ends in them wakes its reader once, for all of it."""
        self._announced = True
        await self._wait(hold_s)
        return self._take()

    async def next_events(self, limit_s: float | None = None, hold_s: float = 0.0) -> list[Event]:
        """The next events for the reader, none when there was none for `limit_s` seconds.

        They are held for up to `hold_s` seconds, to go with what follows, and not longer than to the job's end.
        Progress that is followed by newer progress of its stage is left out.
        """
        await self._wait(limit_s)
        if self._events and not isinstance(self._events[-1], TERMINAL):
            await self._wait(hold_s)
        return self._take()

    def _take(self) -> list[Event]:
        self._announced = False  # before the look: what comes after it is announced again
        events = [self._events.popleft() for _ in range(len(self._events))]
        told = [
            event
            for event, after in zip_longest(events, events[1:])
            if not (isinstance(event, Progress) and isinstance(after, Progress) and after.stage == event.stage)
        ]
        if self._preview:
            with self._lock:  # after the events: there is none any more where the last of them is the end
                preview, self._preview = self._preview, None
            told += [preview] if preview else []
        return told

    async def _wait(self, limit_s: float | None) -> None:
        """Until something has arrived, or the time is over."""
        timer = None if limit_s is None else self._loop.call_later(limit_s, self._arrived.set)
        try:
            await self._arrived.wait()
        finally:
            self._arrived.clear()
            if timer:
                timer.cancel()


_LIBRARIES = frozenset({"accelerate", "diffusers", "peft", "transformers"})
_ARGUMENT_ERRORS = (ValueError, TypeError, IndexError, KeyError, NotImplementedError, ZeroDivisionError, AssertionError)
"""What a library raises for arguments that it does not take. A device's failures are RuntimeErrors."""
REJECTED = "rejected"
"""The code of a job whose parameters a model's library does not take."""


def as_failure(error: Exception) -> ReelnetError:
    """What a backend's exception means to the one who asked. A stranger's text may hold the prompt: dropped.

    An argument that a model's library does not take is a claim of the class `user`: another node has to agree.
    """
    if isinstance(error, ReelnetError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemoryError("the job did not fit into the memory that is free here; ask for a smaller one")
    kind = type(error).__name__
    if isinstance(error, _ARGUMENT_ERRORS) and (place := _library_call(error)):
        message = f"the model's library does not take these parameters ({kind} in {place}); try other ones"
        return UserError(message, code=REJECTED)
    return NodeError(f"the model failed with {kind}", code=kind)


def _library_call(error: Exception) -> str:
    """The module and function that raised an exception, where they are a model library's; else empty."""
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return ""
    frame, _ = frames[-1]
    module = str(frame.f_globals.get("__name__", ""))
    return f"{module}.{frame.f_code.co_name}" if module.partition(".")[0] in _LIBRARIES else ""
