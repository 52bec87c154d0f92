"""Keeps what is done for one peer apart from what is done for the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()


@contextmanager
def sheltered(what: str, **about: object) -> Iterator[None]:
    """Ends here whatever goes wrong in the block, and logs it as `what`: a fault of this program, or of its machine.

    It stands around the work for one runner or one attempt, so that their task group goes on. A cancel goes through.
    """
    try:
        yield
    except Exception:  # outermost: a task that watches one peer cannot end its siblings
        log.exception(what, **about)
