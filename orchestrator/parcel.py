"""Which of an attempt's events go to a follower together, and when."""

from __future__ import annotations

import math
import time

from orchestrator.settings import Limits
from reelnet.jobs import Accepted, Chunk, Event, Preview, Progress, Queued, Started

MIN_WAIT_S = 0.001


class Parcel:
    """Events on their way to one follower: when they go, and which go together.

    `latest` is the newest progress that is not told yet, `preview` the newest preview, `bytes` the size of the chunks.
    """

    def __init__(self, limits: Limits) -> None:
        self.latest: Event | None = None
        self.preview: Preview | None = None
        self._limits = limits
        self._events: list[Event] = []
        self.bytes = 0
        self._goes_at = math.inf
        self._told_at = time.monotonic()
        self._latest_goes_at = self._told_at + limits.progress_s
        self._again: Event = Queued(0, 0.0)

    @property
    def due(self) -> bool:
        """Whether it is to go now."""
        now = time.monotonic()
        return self._goes_at <= now or (self._has_news and self._latest_goes_at <= now)

    @property
    def _has_news(self) -> bool:
        return self.latest is not None or self.preview is not None

    def add(self, event: Event, *, urgent: bool = False) -> None:
        """Adds an event; what is not urgent waits a moment for others."""
        self._events.append(event)
        held_s = self._limits.hold_s
        match event:
            case Chunk(data=data):
                self.bytes += len(data)
            case Started():
                self._again = Progress("start", 0, 1)
                self._forget()
            case Accepted():
                held_s = self._limits.progress_s
                self._forget()
            case _:
                self._forget()
        self._goes_at = 0.0 if urgent else min(self._goes_at, time.monotonic() + held_s)

    def _forget(self) -> None:
        """Progress before a milestone is history."""
        self.latest = self.preview = None

    def beat(self) -> None:
        """When nothing was told for the heartbeat's time, the last progress is to come again."""
        if time.monotonic() - self._told_at >= self._limits.heartbeat_s:
            self.latest = self.latest or self._again
            self._latest_goes_at = 0.0

    def patience_s(self, *, queued: bool) -> float:
        """Seconds until something may be due. A place in the queue changes in silence: it is looked at."""
        now = time.monotonic()
        until = min(self._goes_at, self._told_at + self._limits.heartbeat_s)
        if self._has_news:
            until = min(until, self._latest_goes_at)
        elif queued:
            until = min(until, now + self._limits.progress_s)
        return max(MIN_WAIT_S, until - now)

    def take(self) -> list[Event]:
        """What goes now."""
        events, self._events = self._events, []
        if self.latest is not None:
            events.append(self.latest)
            self._again, self.latest = self.latest, None
        if self.preview is not None:  # never again: one that was told says nothing new
            events.append(self.preview)
            self.preview = None
        now = time.monotonic()
        self.bytes, self._goes_at, self._told_at = 0, math.inf, now
        self._latest_goes_at = now + self._limits.progress_s
        return events
