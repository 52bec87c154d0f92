"""Watches the GPUs while the node runs: what they read, which fail, and which come back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from orchestrator.gpu_health import Change, GpuHealth
from orchestrator.gpus import DriverError, Gpu, GpuFault, GpuLostError, GpuReading, XidEvent
from orchestrator.nvml import open_nvml
from orchestrator.xids import xid

LISTEN_S = 0.5
"""Longest wait in the driver: after so long the thread sees that it shall stop."""
SETTLE_S = 0.2
"""One fault mostly comes as several XID errors within milliseconds: they are judged together."""
TOGETHER = 100
"""A card that reports without end is judged nevertheless."""
SILENCE_S = 60.0
"""A driver can hang with a card. After so long without a reading that is said."""
STOP_S = 5.0
log = structlog.get_logger()


class Session(Protocol):
    """An open session with the driver, as `Nvml` is one."""

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """What answered when it was opened."""

    def read(self, uuid: str) -> GpuReading:
        """What a GPU reads now. Raises GpuLostError."""

    def listen(self) -> bool:
        """Asks for XID errors; whether there will be any."""

    def next_xid(self, timeout_s: float) -> XidEvent | None:
        """Waits for one. Raises GpuLostError."""

    def close(self) -> None:
        """Ends the session."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What the thread has found: readings, if it has read, and what has changed."""

    changes: list[Change]
    readings: Mapping[str, GpuReading] | None = None


class GpuWatch:
    """Asks the driver about these GPUs every `poll_s`, and hears of their XID errors at once.

    `on_fault` and `on_back` are called on the event loop, with a UUID of these; a fault that is not fatal asks for a
    new runner. `latest` is the newest reading of each that answers. While a GPU has a fatal fault, no session is kept
    open between two polls, because a card that a program has open cannot be reset: XID errors are not heard then.
    """

    def __init__(
        self,
        uuids: Iterable[str],
        poll_s: float,
        on_fault: Callable[[str, GpuFault], None],
        on_back: Callable[[str], None],
        open_session: Callable[[], Session | None] = open_nvml,
    ) -> None:
        self.latest: Mapping[str, GpuReading] = {}
        self.silent = False
        self.health = GpuHealth(uuids)
        self._poll_s = poll_s
        self._on_fault = on_fault
        self._on_back = on_back
        self._open_session = open_session
        self._stop = threading.Event()
        self._read_at = 0.0
        self._complaint = ""

    def problem(self, uuid: str) -> str:
        """Why a GPU may not work, in words; "" when it may."""
        fault = self.health.problems.get(uuid)
        if fault is None and self.silent:
            return "NVIDIA's driver does not answer"
        return fault.text if fault else ""

    async def run(self) -> None:
        """Watches until this task is canceled."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._read_at = loop.time()
        # A thread that hangs in the driver must not hold up the end of the process, as an executor's would.
        threading.Thread(target=self._watch, args=(loop, ended), name="gpu watch", daemon=True).start()
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=SILENCE_S / 4)
                self._check_silence(loop.time())
            ended.result()
        finally:
            self._stop.set()
            await asyncio.wait({ended}, timeout=STOP_S)
            ended.cancel()

    def _check_silence(self, now: float) -> None:
        silent = now - self._read_at > SILENCE_S + self._poll_s
        if silent and not self.silent:
            log.error("NVIDIA's driver does not answer; a GPU may hang: see `dmesg | grep NVRM`", silent_s=SILENCE_S)
        self.silent = silent

    def _heard(self, look: _Look, now: float) -> None:
        """On the loop: what the thread has found."""
        if look.readings is not None:
            self.latest = look.readings
            self._read_at = now
            self.silent = False
        for change in look.changes:
            if change.fault is None:
                log.info("GPU is back", gpu=change.uuid)
                self._on_back(change.uuid)
            else:
                log.error("GPU fault", gpu=change.uuid, fault=change.fault.text, fatal=change.fault.fatal)
                self._on_fault(change.uuid, change.fault)

    def _watch(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        """The thread. Its unexpected end is the task's."""

        def tell(look: _Look) -> None:
            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(lambda: self._heard(look, loop.time()))

        failure: BaseException | None = None
        try:
            self._follow(tell)
        except BaseException as error:  # noqa: BLE001  (handed to the task, which raises it)
            failure = error
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_end, ended, failure)

    def _follow(self, tell: Callable[[_Look], None]) -> None:
        session: Session | None = None
        listening = False
        try:
            while not self._stop.is_set():
                next_poll = time.monotonic() + self._poll_s
                if session is None and (session := self._opened()):
                    listening = session.listen()
                readings = _read(session, self.health.uuids)
                tell(_Look(self.health.read(readings), readings))
                if session and (self.health.problems or not self._listened(session, listening, next_poll, tell)):
                    session.close()
                    session = None
                self._stop.wait(0 if session else next_poll - time.monotonic())
        finally:
            if session:
                session.close()

    def _opened(self) -> Session | None:
        complaint = "NVIDIA's driver is not loaded"
        try:
            if session := self._open_session():
                self._complaint = ""
                return session
        except DriverError as error:
            complaint = str(error)
        if complaint != self._complaint:
            self._complaint = complaint
            log.error("the GPUs cannot be watched", reason=complaint)
        return None

    def _listened(self, session: Session, listening: bool, until: float, tell: Callable[[_Look], None]) -> bool:
        """Tells XID errors until the next poll is due, or a fault is fatal; whether the session is still good."""
        while not self._stop.is_set() and not self.health.problems and (left_s := until - time.monotonic()) > 0:
            if not listening:
                self._stop.wait(left_s)
                continue
            try:
                events = _next_xids(session, min(LISTEN_S, left_s))
            except GpuLostError:
                return False
            if events:
                log.warning("XID errors", errors=[f"{event.code}: {xid(event.code).text}" for event in events])
                tell(_Look(self.health.reported(events)))
        return True


def _next_xids(session: Session, timeout_s: float) -> list[XidEvent]:
    """The next XID error within the time, and those that come with it."""
    events: list[XidEvent] = []
    wait_s = timeout_s
    while len(events) < TOGETHER and (event := session.next_xid(wait_s)):
        events.append(event)
        wait_s = SETTLE_S
    return events


def _read(session: Session | None, uuids: Iterable[str]) -> dict[str, GpuReading]:
    """The readings of those that answer."""
    readings: dict[str, GpuReading] = {}
    for uuid in uuids if session else ():
        assert session is not None
        with suppress(GpuLostError):
            readings[uuid] = session.read(uuid)
    return readings


def _end(ended: asyncio.Future[None], failure: BaseException | None) -> None:
    if ended.done():
        return
    if failure:
        ended.set_exception(failure)
    else:
        ended.set_result(None)
