"""A job as server-sent events, for clients that ask with `Accept: text/event-stream`.

It begins when a node has taken the job. Events: `job {id}`, `queued {position, eta_s}`, `started {cold}`, `progress
{stage, step, total}`, `preview {index, step, total, media_type, data}` with a JPEG as base64, then either `result` with
the body of the plain answer or `error` with the error body. A client that leaves cancels the job.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broadcaster.errors_http import error_body, error_response
from broadcaster.gateway import Gateway
from broadcaster.job import JobProgress, JobRequest
from reelnet.errors import CanceledError, ReelnetError
from reelnet.http_headers import preference
from reelnet.jobs import Accepted, Event, Preview, Progress, Queued, Started
from reelnet.metadata import JPEG

T = TypeVar("T")
EVENT_STREAM = "text/event-stream"
KEEPALIVE_S = 15.0
BACKLOG = 256
"""Events that may wait for a slow client; newer ones are dropped then, but for the last. Of previews one may wait."""


def wants_events(accept: str) -> bool:
    """Whether a client asks for a stream: it names `text/event-stream`, and wants nothing else more."""
    if "event-stream" not in accept.lower():
        return False
    events, body = preference(accept, EVENT_STREAM), preference(accept, "application/json")
    return events.exactness == 2 and 0 < events.quality >= body.quality


async def unless_client_leaves(receive: Receive, work: Awaitable[T]) -> T:
    """Goes on for as long as the client waits: one that leaves cancels the work, down to the GPU (CanceledError)."""
    leaves = asyncio.ensure_future(_left(receive))
    try:
        async with asyncio.timeout(None) as patience:
            leaves.add_done_callback(lambda _: _expire(patience))
            return await work
    except TimeoutError:
        raise CanceledError("the client left") from None
    finally:
        leaves.cancel()


def _expire(patience: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # the work has ended in the same moment
        patience.reschedule(asyncio.get_running_loop().time())


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class JobStreamResponse(Response):
    """Runs a job while its events are read.

    The stream begins when a node has taken the job: what ends before is answered by its own status and error body.
    """

    media_type = EVENT_STREAM

    def __init__(self, gateway: Gateway, job: JobRequest, result: Callable[[JobProgress], dict[str, Any]]) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._gateway = gateway
        self._job = job
        self._result = result

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI response. A client that leaves cancels the job."""
        news = News()
        task = asyncio.create_task(self._gateway.run(self._job, news.hear), name=f"job:{self._job.id}")
        task.add_done_callback(lambda _: news.end())
        try:
            refusal = await unless_client_leaves(receive, self._begun(task, news))
            if refusal:
                await refusal(scope, receive, send)
            else:
                await unless_client_leaves(receive, self._stream(task, news, send))
        except (CanceledError, OSError):
            pass  # nobody is there to be told
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, ReelnetError):
                await task

    async def _begun(self, task: asyncio.Task[JobProgress], news: News) -> Response | None:
        """Waits for the first event; gives the answer where the job failed before any."""
        await news.begun()
        if task.done() and not news.heard and (error := task.exception()):
            assert isinstance(error, ReelnetError), "a gateway's own faults are errors of ours"
            return error_response(error, self._job.id)
        return None

    async def _stream(self, task: asyncio.Task[JobProgress], news: News, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        text: bytes | None = sse("job", {"id": self._job.id})
        while text is not None:
            await send({"type": "http.response.body", "body": text, "more_body": True})
            text = await news.next()
        await send({"type": "http.response.body", "body": self._last(task)})

    def _last(self, task: asyncio.Task[JobProgress]) -> bytes:
        try:
            return sse("result", self._result(task.result()))
        except ReelnetError as error:
            return sse("error", error_body(error, self._job.id))


class News:
    """What of a job's events a client has not read yet, as text: in their order, and behind them the newest preview."""

    def __init__(self) -> None:
        self._texts: deque[bytes] = deque()
        self._preview: Preview | None = None
        self._arrived = asyncio.Event()
        self._ended = False
        self.heard = False
        """Whether anything has happened to the job."""

    def hear(self, event: Event) -> None:
        """Takes an event; drops it where too many wait."""
        self.heard = True
        if isinstance(event, Preview):
            self._preview = event
        elif len(self._texts) < BACKLOG and (text := _event_text(event)) is not None:
            self._texts.append(text)
        self._arrived.set()

    def end(self) -> None:
        """Nothing follows; a preview that waits is not needed any more."""
        self._ended, self._preview = True, None
        self._arrived.set()

    async def begun(self) -> None:
        """Returns when something has happened, or the job has ended."""
        await self._arrived.wait()

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
