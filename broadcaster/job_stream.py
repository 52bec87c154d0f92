"""A job as server-sent events, for clients that ask with `Accept: text/event-stream`.

Events: `job {id}`, `queued {position, eta_s}`, `started {cold}`, `progress {stage, step, total}`, `preview {index,
step, total, media_type, data}` with a JPEG as base64, then either `result` with the body of the plain answer or `error`
with the error body. A client that leaves cancels the job.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse

from broadcaster.errors_http import error_body
from broadcaster.gateway import Gateway
from broadcaster.job import JobProgress, JobRequest
from reelnet.errors import ReelnetError
from reelnet.jobs import Accepted, Event, Preview, Progress, Queued, Started
from reelnet.metadata import JPEG

EVENT_STREAM = "text/event-stream"
KEEPALIVE_S = 15.0
BACKLOG = 256
"""Events that may wait for a slow client; newer ones are dropped then, but for the last. Of previews one may wait."""


class JobStreamResponse(StreamingResponse):
    """Runs a job while its events are read."""

    def __init__(self, gateway: Gateway, job: JobRequest, result: Callable[[JobProgress], dict[str, Any]]) -> None:
        super().__init__(_events(gateway, job, result), media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})


async def _events(
    gateway: Gateway, job: JobRequest, result: Callable[[JobProgress], dict[str, Any]]
) -> AsyncIterator[bytes]:
    news = News()
    task = asyncio.create_task(gateway.run(job, news.hear), name=f"job:{job.id}")
    task.add_done_callback(lambda _: news.end())
    try:
        yield sse("job", {"id": job.id})
        while (text := await news.next()) is not None:
            yield text
        try:
            yield sse("result", result(task.result()))
        except ReelnetError as error:
            yield sse("error", error_body(error))
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, ReelnetError):
            await task


class News:
    """What of a job's events a client has not read yet, as text: in their order, and behind them the newest preview."""

    def __init__(self) -> None:
        self._texts: deque[bytes] = deque()
        self._preview: Preview | None = None
        self._arrived = asyncio.Event()
        self._ended = False

    def hear(self, event: Event) -> None:
        """Takes an event; drops it where too many wait."""
        if isinstance(event, Preview):
            self._preview = event
        elif len(self._texts) < BACKLOG and (text := _event_text(event)) is not None:
            self._texts.append(text)
        self._arrived.set()

    def end(self) -> None:
        """Nothing follows; a preview that waits is not needed any more."""
        self._ended, self._preview = True, None
        self._arrived.set()

    async def next(self) -> bytes | None:
        """The next event; a comment when nothing happened for a while; None when the job has ended."""
        try:
            async with asyncio.timeout(KEEPALIVE_S):
                while not (self._texts or self._preview or self._ended):
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return b": still here\n\n"
        return self._take()

    def _take(self) -> bytes | None:
        if self._texts:
            return self._texts.popleft()
        preview, self._preview = self._preview, None
        return _preview_text(preview) if preview else None


def _preview_text(preview: Preview) -> bytes:
    at = {"index": preview.index, "step": preview.step, "total": preview.total}
    return sse("preview", {**at, "media_type": JPEG, "data": base64.b64encode(preview.data).decode()})


def _event_text(event: Event) -> bytes | None:
    match event:
        case Accepted(position=position, eta_s=eta_s) | Queued(position=position, eta_s=eta_s):
            return sse("queued", {"position": position, "eta_s": round(eta_s, 1)})
        case Started(cold=cold):
            return sse("started", {"cold": cold})
        case Progress(stage=stage, step=step, total=total):
            return sse("progress", {"stage": stage, "step": step, "total": total})
    return None


def sse(name: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
