"""A job's answer: its events as they happen, and an eye on the client that may leave."""

from __future__ import annotations

import asyncio

import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from runner.activity import Activity
from runner.events import MEDIA_TYPE, TERMINAL, Event, Tick, encode

log = structlog.get_logger()


class ClientLeft(Exception):
    """The client closed the connection, or leaves what is sent to it unread."""


class JobStream(Response):
    """Streams an activity's events; the job is told to stop as soon as the client is gone.

    A server that only notices when it sends would let the device finish: so one task sends and another waits for the
    disconnect, and whichever way the response ends, the job is not left running for nobody.
    """

    media_type = MEDIA_TYPE

    def __init__(self, activity: Activity, tick_s: float, send_timeout_s: float) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._activity = activity
        self._tick_s = tick_s
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI response."""
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(_watch(receive), name="watch client")
                await self._stream(send)
                watcher.cancel()
        except* ClientLeft:
            log.info("client left", job=self._activity.job.job_id)
        finally:
            self._activity.cancel("the client left")  # says nothing to a job that has ended

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while True:
            event = await self._next()
            await self._send(send, encode(event))
            if isinstance(event, TERMINAL):
                break
        await self._send(send, b"", more=False)

    async def _next(self) -> Event:
        try:
            async with asyncio.timeout(self._tick_s):
                return await self._activity.next_event()
        except TimeoutError:
            return Tick(round(self._activity.idle_s, 3))

    async def _send(self, send: Send, data: bytes, more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": data, "more_body": more}
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)
        except (TimeoutError, OSError):
            raise ClientLeft from None


async def _watch(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientLeft
