"""A valid request that began no job, and by which reason it is counted."""

from __future__ import annotations

import enum

from reelnet.errors import BusyError


class Reason(enum.StrEnum):
    """Why no job began: the broadcaster itself, or no node took it."""

    JOBS = "jobs"
    DRAINING = "draining"
    JOURNAL_FULL = "journal_full"
    JOURNAL = "journal"
    MEDIA = "media"
    DISK_FULL = "disk_full"
    NO_NODE = "no_node"
    FULL = "full"
    REFUSED = "refused"


class Refusal(BusyError):
    """Nothing of the request was begun. `code` is the reason, or the word of the last node that was asked."""

    def __init__(self, message: str, reason: Reason, retry_after_s: float, code: str | None = None) -> None:
        super().__init__(message, code=code or reason.value, retry_after_s=retry_after_s)
        self.reason = reason
