"""A job as server-sent events, for clients that ask with `Accept: text/event-stream`.

Events: `job {id}`, `queued {position, eta_s}`, `started {cold}`, `progress {stage, step, total}`, then either `result`
with the body of the plain answer or `error` with the error body. A client that leaves cancels the job.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse

from broadcaster.errors_http import error_body
from broadcaster.gateway import Gateway
from broadcaster.job import JobProgress, JobRequest
from reelnet.errors import ReelnetError
from reelnet.jobs import Accepted, Event, Progress, Queued, Started

EVENT_STREAM = "text/event-stream"
KEEPALIVE_S = 15.0
BACKLOG = 256
"""Events that may wait for a slow client; newer ones are dropped then, but for the last."""


class JobStreamResponse(StreamingResponse):
    """Runs a job while its events are read."""

    def __init__(self, gateway: Gateway, job: JobRequest, result: Callable[[JobProgress], dict[str, Any]]) -> None:
        super().__init__(_events(gateway, job, result), media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})


async def _events(
    gateway: Gateway, job: JobRequest, result: Callable[[JobProgress], dict[str, Any]]
) -> AsyncIterator[bytes]:
    news: asyncio.Queue[bytes] = asyncio.Queue(BACKLOG)

    def listen(event: Event) -> None:
        with suppress(asyncio.QueueFull):
            if (text := _event_text(event)) is not None:
                news.put_nowait(text)

    task = asyncio.create_task(gateway.run(job, listen), name=f"job:{job.id}")
    try:
        yield sse("job", {"id": job.id})
        while not (task.done() and news.empty()):
            if (text := await _next(news, task)) is not None:
                yield text
        try:
            yield sse("result", result(task.result()))
        except ReelnetError as error:
            yield sse("error", error_body(error))
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, ReelnetError):
            await task


async def _next(news: asyncio.Queue[bytes], task: asyncio.Task[JobProgress]) -> bytes | None:
    """The next event; a comment when nothing happened for a while; None when the job has ended."""
    getter = asyncio.ensure_future(news.get())
    done, _ = await asyncio.wait((getter, task), timeout=KEEPALIVE_S, return_when=asyncio.FIRST_COMPLETED)
    if getter in done:
        return getter.result()
    getter.cancel()
    return None if task.done() else b": still here\n\n"


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
