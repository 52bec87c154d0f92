"""One named thread that makes calls in the order in which they were put."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Call = Callable[[], None]


class Lane:
    """A daemon thread with a bounded queue of calls. A call handles its own errors: one that escapes ends the lane.

    A daemon, because a model that hangs in native code must not keep the process from ending.
    """

    def __init__(self, name: str, depth: int) -> None:
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._places = threading.BoundedSemaphore(depth) if depth else None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Begins to make calls."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def put(self, call: Call) -> None:
        """Adds a call; waits while `depth` calls are waiting already."""
        if self._places:
            self._places.acquire()
        self._calls.put(call)

    def close(self, timeout_s: float) -> bool:
        """Makes the calls that were put, then ends. False when that took longer than `timeout_s`."""
        if self._places and not self._places.acquire(timeout=timeout_s):
            return False
        self._calls.put(None)
        if self.alive:
            self._thread.join(timeout_s)
        return not self.alive

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._places:
                self._places.release()
            call()
