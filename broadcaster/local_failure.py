"""Failures that are this broadcaster's own: its disk, its journal, its checking processes."""

from __future__ import annotations

from reelnet.errors import TransientError

RETRY_AFTER_S = 30.0


class LocalError(TransientError):
    """This broadcaster failed the job: no node is blamed for it, and none is asked in another's place.

    Over HTTP it is 503; the text says what the operator can do.
    """

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message, code=code, retry_after_s=RETRY_AFTER_S)
