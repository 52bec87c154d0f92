"""Quarantine: a slot or a device that failed too often, or for good, is kept away from for a while. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from orchestrator.settings import Limits

KEPT_FAULTS = 64


@dataclass(slots=True)
class Quarantine:
    """The faults of one slot or device, and until when it is kept away from (0: it is not), in a clock's seconds."""

    until: float = 0.0
    _faults: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_FAULTS))

    def too_many(self, now: float, limits: Limits) -> bool:
        """Counts a fault; whether it is one more than the limits allow."""
        self._faults.append(now)
        return sum(1 for at in self._faults if now - at <= limits.quarantine_window_s) >= limits.quarantine_faults

    def begin(self, now: float, limits: Limits) -> None:
        """Keeps away from it, for as long as the limits say."""
        self.until = now + limits.quarantine_s

    def end(self) -> None:
        """It is tried again, and its faults are forgotten."""
        self.until = 0.0
        self._faults.clear()
