"""A job's answer: its events as they happen, and an eye on the client that may leave."""

from __future__ import annotations

import asyncio

import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from runner.activity import Activity
from runner.events import CHUNK_BYTES, MEDIA_TYPE, TERMINAL, Chunk, Event, Tick, encode

log = structlog.get_logger()


_HEADERS = [(b"content-type", MEDIA_TYPE.encode())]
HOLD_S = 0.002
"""Seconds for which progress is held, so that what happens in the same moment goes in one piece."""


class ClientLeft(Exception):
    """The client closed the connection, or leaves what is sent to it unread."""


class JobStream(Response):
    """Streams an activity's events; the job is told to stop as soon as the client is gone.

    A server that only notices when it sends would let the device finish: so another task waits for the disconnect, and
    whichever way the response ends, the job is not left running for nobody.
    """

    media_type = MEDIA_TYPE

    def __init__(self, activity: Activity, tick_s: float, send_timeout_s: float) -> None:
        self.status_code, self.raw_headers, self.background = 200, _HEADERS, None
        self._activity = activity
        self._tick_s = tick_s
        self._send_timeout_s = send_timeout_s
        self._left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI response."""
        # The head goes at once: a runner that dies of a job has answered, and the node knows what it died of.
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        ended = False
        try:
            ended = await self._tell(send, await self._activity.first_events(HOLD_S))
            if not ended:
                await self._stream(receive, send)
        except ClientLeft:
            log.info("client left", job=self._activity.job.job_id)
        finally:
            if not ended:
                self._activity.cancel("the client left")  # says nothing to a job that has ended

    async def _stream(self, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self._watch(receive), name="watch client")
        try:
            while not await self._tell(send, await self._next()):
                pass
        finally:
            watcher.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._left = True
        self._activity.wake()

    async def _tell(self, send: Send, events: list[Event]) -> bool:
        """Sends events; whether they were the last."""
        if not events:
            return False
        ended = isinstance(events[-1], TERMINAL)
        *pieces, last = pack(events)
        for piece in pieces:
            await self._send(send, piece)
        await self._send(send, last, more=not ended)
        return ended

    async def _next(self) -> list[Event]:
        events = await self._activity.next_events(self._tick_s, HOLD_S)
        if self._left:
            raise ClientLeft
        return events or [Tick(round(self._activity.idle_s, 3))]

    async def _send(self, send: Send, data: bytes, more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": data, "more_body": more}
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)
        except (TimeoutError, OSError):
            raise ClientLeft from None


def pack(events: list[Event]) -> list[bytes]:
    """The lines of events, in pieces that hold a chunk each, and the last one what is left."""
    pieces: list[bytes] = []
    parts: list[bytes | memoryview] = []
    size = 0
    for event in events:
        parts += encode(event)
        size += len(event.data) if isinstance(event, Chunk) else 0
        if size >= CHUNK_BYTES:
            pieces.append(b"".join(parts))
            parts, size = [], 0
    return [*pieces, b"".join(parts)] if parts else pieces
