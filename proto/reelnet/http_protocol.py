"""What a connection may cost before its request is anybody's: bytes and number of headers, seconds, connections."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from reelnet.http_headers import REQUEST_ID, new_request_id
from reelnet.settings import HttpLimits


class HeadTooLargeError(Exception):
    """A request's head is over its bound; the parser passes it on as an error of its own."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which takes as many and as slow headers as one cares to send, within limits.

    A head over them gets 431, one connection too many 503, and both are closed; so is, without an answer, a connection
    whose head is not complete in time. A body is bounded by who reads it; one that was answered before it was whole,
    and is read by nobody, gets the time of a head to end.
    """

    limits: ClassVar[HttpLimits]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins the time of the first head."""
        self._loose_bytes = 0
        self._head_bytes = 0
        self._in_body = self._too_large = False
        self._patience: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "connections", "every connection is taken; ask again in a second", retry_after_s=1)
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leaves no timer behind."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what completes no head and brings no piece of a body: the parser would keep all of it."""
        self._loose_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._loose_bytes > self.limits.head_bytes:
            self._too_large = True
            self.send_400_response("")
        elif self._idle and self._patience is None:
            self._wait()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A piece of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; one behind a body is counted with the others and dropped: the request is under way without it."""
        self._count(len(name) + len(value) + len(b": \r\n"), headers=len(self.headers) + 1)
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        self._loose_bytes = 0
        self._in_body = True
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._loose_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._loose_bytes = 0
        self._in_body = False
        self._stop_waiting()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The rest of a body that nobody reads any more has to end in time."""
        super().on_response_complete()
        if self._in_body and self._idle and not self.transport.is_closing():
            self._wait()

    def send_400_response(self, msg: str) -> None:
        """Answers what the parser refuses: 431 for what is too large."""
        if self._too_large:
            bounds = f"{self.limits.headers} headers in {self.limits.head_bytes} bytes"
            self._refuse(431, "head_size", f"the request's head is too large; at most {bounds} are read")
        else:
            self._refuse(400, "head", "this is no HTTP/1.1 request")

    @property
    def _idle(self) -> bool:
        """Whether no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _count(self, size: int, headers: int = 0) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.head_bytes or headers > self.limits.headers:
            self._too_large = True
            raise HeadTooLargeError

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(self.limits.head_s, self.timeout_keep_alive_handler)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _refuse(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        """Answers and closes; a connection on which another answer is under way is only closed."""
        if self._idle:
            request_id = new_request_id()
            about: dict[str, Any] = {"message": message, "class": "user", "code": code, "request_id": request_id}
            headers = [f"{REQUEST_ID}: {request_id}", "content-type: application/json", "connection: close"]
            if retry_after_s is not None:
                about |= {"class": "busy", "retry_after_s": retry_after_s}
                headers.append(f"retry-after: {retry_after_s}")
            body = json.dumps({"detail": {"msg": message}, "error": about}).encode("ascii")
            head = "\r\n".join([*headers, f"content-length: {len(body)}", "", ""])
            self.transport.write(STATUS_LINE[status] + head.encode("ascii") + body)
        self.transport.close()


def bounded_protocol(limits: HttpLimits) -> type[asyncio.Protocol]:
    """The protocol of a server with these limits."""
    namespace: dict[str, Any] = {"limits": limits}
    return type("Bounded", (BoundedProtocol,), namespace)
