"""A connection to a runner for jobs without inputs: one POST at a time, and its answer in pieces as they come.

All else that a node says to its runners goes through aiohttp. That takes some 200 calls of Python for a request, where
everything else that a node does for a job takes 800.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import httptools

UNREAD_BYTES = 512 * 1024
"""More of an answer is left in the socket until it is asked for."""
HEAD_BYTES = 64 * 1024
"""More bytes in a row that are no part of a body, an answer's head above all, are not read."""
_HEAD = b"POST %b HTTP/1.1\r\nHost: runner\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


class HeadError(ConnectionError):
    """What came is no answer in HTTP to the request, or its head has no end."""


class Line(asyncio.Protocol):
    """One connection. Reading raises OSError when it is lost, or when nothing of a body came for `silence_s`.

    An answer's beginning has `silence_s` in all, however its head drips.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._pieces: list[bytes] = []
        self._unread = self._status = self._bare = 0
        self._whole = True
        """Whether no answer is under way."""
        self._used_at = self._loop.time()
        self._lost: OSError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._waits_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def open(cls, socket: Path, silence_s: float) -> Line:
        """A new connection. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_unix_connection(lambda: cls(silence_s), str(socket))
        return line

    def fit(self, kept_s: float) -> bool:
        """Whether it can take a request, and has had none for no longer than `kept_s`.

        What of an answer nobody has read would be taken for the beginning of the next one.
        """
        idle = self._whole and not self._pieces and self._lost is None
        return idle and self._loop.time() - self._used_at <= kept_s

    async def post(self, target: bytes, body: bytes) -> int:
        """Sends JSON; the answer's status."""
        assert self._transport
        self._whole, self._status = False, 0
        self._waits_since = self._loop.time()
        self._transport.write(_HEAD % (target, len(body)) + body)
        self._timer = self._loop.call_later(self._silence_s, self._look)
        while not self._status:
            await self._more()
        return self._status

    async def readany(self) -> bytes:
        """What has come of the answer's body and was not read yet; nothing at its end."""
        self._waits_since = self._loop.time()
        while not self._pieces and not self._whole:
            await self._more()
        data, self._pieces = b"".join(self._pieces), []
        if self._unread > UNREAD_BYTES and self._transport:
            self._transport.resume_reading()
        self._unread = 0
        return data

    def close(self) -> None:
        """Ends the connection; a runner takes that for a cancel of what it does for it."""
        self._lose(ConnectionAbortedError("closed"))

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        unread = self._unread
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lose(HeadError(f"no HTTP: {error}"))
            return
        self._bare = 0 if self._unread > unread or self._whole else self._bare + len(data)
        if self._bare > HEAD_BYTES:
            self._lose(HeadError("a head without an end"))
        self._wake()
        if unread <= UNREAD_BYTES < self._unread and self._transport:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(ConnectionResetError("the runner closed the connection"))

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._whole:
            raise HeadError("an answer that nobody asked for")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._unread += len(body)

    def on_message_complete(self) -> None:
        self._whole, self._used_at = True, self._loop.time()
        self._stop_timer()
        if not self._parser.should_keep_alive():
            self._lose(ConnectionAbortedError("the runner takes no other request here"))

    async def _more(self) -> None:
        if self._lost:
            raise self._lost
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _look(self) -> None:
        """The timer's end: whoever waits may wait for as long from when it began to."""
        due = (self._waits_since if self._waiter else self._loop.time()) + self._silence_s
        if due <= self._loop.time():
            self._lose(TimeoutError(f"nothing for {self._silence_s:g} s"))
        else:
            self._timer = self._loop.call_at(due, self._look)

    def _lose(self, error: OSError) -> None:
        self._lost = self._lost or error
        self._stop_timer()
        self._wake()
        if self._transport:
            self._transport.close()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
