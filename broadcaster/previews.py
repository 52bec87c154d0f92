"""Which of a node's previews an app gets to see. They are a stranger's bytes, and none of them is owed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

from broadcaster.job import JobRequest
from reelnet.jobs import MAX_PREVIEW_BYTES, MAX_PREVIEW_SIDE, Event, Preview
from reelnet.metadata import JPEG, BrokenPictureError, claimed_size, dissect

SHOWN, EARLY, REFUSED = "shown", "early", "refused"
_SIGNATURE = b"\xff\xd8\xff"
_MAX_SEGMENTS = 64
"""A baseline JPEG has a dozen, a progressive one some thirty. Thousands would hold the event loop for milliseconds."""


class PreviewGate:
    """Stands before a job's listener: passes events on, and of previews those that were asked for and are in order.

    They come without metadata, and at most one in `interval_s` seconds. `count` hears what became of each: SHOWN,
    EARLY or REFUSED. Nothing is decoded, and nothing fails by a preview.
    """

    def __init__(
        self,
        request: JobRequest,
        listener: Callable[[Event], None],
        interval_s: float,
        count: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._request = request
        self._listener = listener
        self._interval_s = interval_s
        self._count = count
        self._clock = clock
        self._shown_at = -math.inf

    def __call__(self, event: Event) -> None:
        """Takes one event of the job."""
        if not isinstance(event, Preview):
            self._listener(event)
            return
        if self._clock() - self._shown_at < self._interval_s:
            self._count(EARLY)
        elif (data := self._clean(event)) is None:
            self._count(REFUSED)
        else:
            self._shown_at = self._clock()
            self._count(SHOWN)
            self._listener(replace(event, data=data))

    def _clean(self, preview: Preview) -> bytes | None:
        """The JPEG without metadata; None for what was not asked, or is no small JPEG."""
        if not self._request.preview_steps or preview.index >= len(self._request.promises):
            return None
        return bare_jpeg(preview.data)


def bare_jpeg(data: bytes) -> bytes | None:
    """A preview's file without what is no pixel; None for what is none, by its structure and its header's word."""
    if len(data) > MAX_PREVIEW_BYTES or not data.startswith(_SIGNATURE):
        return None
    try:
        _, bare = dissect(data, JPEG, max_parts=_MAX_SEGMENTS)
        size = claimed_size(bare, JPEG)
    except BrokenPictureError:
        return None
    return bare if min(size) > 0 and max(size) <= MAX_PREVIEW_SIDE else None
