"""How far a peer's clock is ahead of this one, from the moments that it tells."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


MOST_SKEW_S = 3600.0
"""No peer that proved its id is farther off: a challenge is good for minutes. What is beyond counts as this."""


class Skew:
    """One peer's skew, seconds, from its answers to one call; positive where its clock is ahead.

    The first answer came as long after the call as the way there and back takes, and so half of that is the way back.
    """

    def __init__(self, sent_ms: int) -> None:
        self._sent_ms = sent_ms
        self._way_ms: float | None = None

    def seen(self, theirs_ms: int | None, received_ms: int) -> float | None:
        """The skew by an answer that says `theirs_ms`; None when it does not say."""
        if self._way_ms is None:
            self._way_ms = max(0, received_ms - self._sent_ms) / 2
        if theirs_ms is None:
            return None
        return bounded_skew_s((theirs_ms + self._way_ms - received_ms) / 1000)


def bounded_skew_s(skew_s: float) -> float:
    """A skew that a peer tells, at most MOST_SKEW_S either way."""
    return max(-MOST_SKEW_S, min(MOST_SKEW_S, skew_s))


def skew_text(skew_s: float) -> str:
    """Such as `its clock is 61 s ahead of this machine's`."""
    return f"its clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's"
