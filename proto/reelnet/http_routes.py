"""The straight way to a route of a FastAPI application, and the bounds of what a request sends there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelnet.errors import CanceledError, ReelnetError, UserError
from reelnet.http_headers import header

log = structlog.get_logger()
OnError = Callable[[Request, Any], Awaitable[Response]]
Handler = Callable[[Request], Awaitable[Response]]
FORM_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")
MAX_CONTENT_TYPE_CHARS = 512
"""Longest media type that is looked into."""
MAX_DIGITS = 400
"""Most digits of an integer in JSON: the time that Python takes for one grows with their square."""


class Answer(Response):
    """A whole body under headers that are bytes already: Starlette takes longer to make them so than to send them."""

    def __init__(self, body: bytes, headers: Iterable[tuple[bytes, bytes]], status: int = 200) -> None:
        self.status_code, self.background = status, None
        self.body = body
        self.raw_headers = [(b"content-length", str(len(body)).encode()), *headers]


def route_path(scope: Scope) -> str:
    """A request's path below the prefix under which the application is called."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """Bytes of one request's body, seconds that it may take, and seconds in which it may bring nothing."""

    size_bytes: int
    whole_s: float
    stall_s: float


class BoundedBody:
    """A request's `receive` within bounds; behind the body, where a client's leaving is waited for, it has none."""

    def __init__(self, receive: Receive, bounds: BodyBounds) -> None:
        self._receive = receive
        self._bounds = bounds
        self._ends = asyncio.get_running_loop().time() + bounds.whole_s
        self._whole = False
        self.seen_bytes = 0

    async def __call__(self) -> Message:
        """The next message. Raises UserError: 413 for a body that is too large, 408 for one that is late."""
        if self._whole:
            return await self._receive()
        message = await self._in_time()
        self._whole = not message.get("more_body", False)
        self.seen_bytes += len(message.get("body", b""))
        if self.seen_bytes > self._bounds.size_bytes:
            raise too_large(self._bounds.size_bytes)
        return message

    async def _in_time(self) -> Message:
        stalls = asyncio.get_running_loop().time() + self._bounds.stall_s
        try:
            async with asyncio.timeout_at(min(stalls, self._ends)):
                return await self._receive()
        except TimeoutError:
            bounds = f"{self._bounds.whole_s:g} s for all of it, {self._bounds.stall_s:g} s from one piece to the next"
            message = f"the rest of the body did not come: it has {bounds}"
            raise UserError(message, code="body_late", http_status=408) from None


def too_large(limit_bytes: int, what: str = "the request") -> UserError:
    """The error for a body of more bytes than are taken."""
    return UserError(f"{what} is larger than {limit_bytes} bytes", code="body_size", http_status=413)


async def whole_body(receive: Receive, limit_bytes: int, what: str = "the request") -> bytes:
    """A request's body. Raises ClientDisconnect, and UserError (413) when it is larger than `limit_bytes`."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > limit_bytes:
            raise too_large(limit_bytes, what)
        more = message.get("more_body", False)
    return bytes(body)


@asynccontextmanager
async def read_form(request: Request, max_files: int, max_fields: int, field_bytes: int) -> AsyncIterator[FormData]:
    """A multipart body's parts, for the length of the block. Raises ClientDisconnect, and UserError (400, 415).

    `field_bytes` bounds each part that is no file. A part's headers are bounded by the parser, in number and length.
    """
    _check_charset(header(request.scope, b"content-type"))
    parser = _Whole(request, max_files=max_files, max_fields=max_fields, max_part_size=field_bytes)
    try:
        async with aclosing(parser.stream):
            form = await parser.parse()
    except ClientDisconnect:
        parser.close_files()
        raise
    except MultiPartException as error:
        too_long = "exceeded maximum size" in error.message
        why = (
            f"a field is larger than {field_bytes} bytes; send a picture or clip as a file"
            if too_long
            else error.message
        )
        raise UserError(f"the form cannot be read: {why}", code="form", http_status=400) from None
    try:
        yield form
    finally:
        await form.close()


class _Whole(MultiPartParser):
    """Starlette's parser, which takes the whole parts of a form that is cut off for all of it."""

    def __init__(self, request: Request, **bounds: int) -> None:
        super().__init__(request.headers, self._to_its_end(request), **bounds)
        self._ended = False

    def on_end(self) -> None:
        """The closing boundary."""
        self._ended = True

    def close_files(self) -> None:
        """Closes what came of a form that is not read to its end; Starlette does so at its own errors alone."""
        for file in self._files_to_close_on_error:
            file.close()

    async def _to_its_end(self, request: Request) -> AsyncGenerator[bytes, None]:
        """The body. Raises MultiPartException when it was no whole form: within the parser, which closes its files."""
        async with aclosing(request.stream()) as pieces:
            async for piece in pieces:
                yield piece
        if not self._ended:
            raise MultiPartException("it ends before its closing boundary")


def _check_charset(content_type: str) -> None:
    """Raises UserError (415) for a charset of the sender's choice: Python has some that take hours to decode."""
    charset = parse_options_header(content_type[:MAX_CONTENT_TYPE_CHARS])[1].get(b"charset", b"utf-8")
    if len(content_type) > MAX_CONTENT_TYPE_CHARS or charset.lower() not in FORM_CHARSETS:
        message = "cannot read that form: its media type is multipart/form-data with a boundary, its charset UTF-8"
        raise UserError(message, code="media_type", http_status=415)


def read_json(data: bytes | str) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError that says why for what is none, or does not mean one thing.

    Neither are NaN and Infinity JSON, nor is a name that stands twice in one object. A byte order mark is passed over.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_integer)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


class Direct:
    """Calls some of an application's functions itself; everything else goes to the application.

    A job's control takes about as long as FastAPI's own way to the function that begins it. `routes` are functions by
    method and path, `{name}` at the end of a path being the rest of it; they are the application's own, which
    documents them. `on_error` is the answer to an error of ours, `on_fault` to any other exception.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[tuple[str, str], Handler],
        on_error: OnError,
        on_fault: OnError,
    ) -> None:
        self._app = app
        self._exact = {at: handler for at, handler in routes.items() if not at[1].endswith("}")}
        self._prefixes = [(*_prefix(at), handler) for at, handler in routes.items() if at[1].endswith("}")]
        self._on_error = on_error
        self._on_fault = on_fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        handler = self._find(scope) if scope["type"] == "http" else None
        if handler is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            response = await handler(request)
        except ReelnetError as error:
            response = await self._on_error(request, error)
        except ClientDisconnect:
            response = await self._on_error(request, CanceledError("the client left"))
        except Exception as error:
            log.exception("a request failed by a fault of this program", path=scope["path"])
            response = await self._on_fault(request, error)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> Handler | None:
        path = route_path(scope)
        if handler := self._exact.get((scope["method"], path)):
            return handler
        for method, prefix, name, handler in self._prefixes:
            if scope["method"] == method and path.startswith(prefix) and "/" not in path[len(prefix) :]:
                scope["path_params"] = {name: path[len(prefix) :]}
                return handler
        return None


def _prefix(at: tuple[str, str]) -> tuple[str, str, str]:
    method, path = at
    prefix, _, name = path.rpartition("{")
    return method, prefix, name.rstrip("}")


class Heads:
    """Answers HEAD as GET, without the body, for an application whose routes know GET alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        head = scope["type"] == "http" and scope["method"] == "HEAD"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 405:
                message["headers"] = [_with_head(*item) for item in message["headers"]]
            elif head and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        await self._app({**scope, "method": "GET"} if head else scope, receive, sending)


def _with_head(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return (name, value + b", HEAD") if name.lower() == b"allow" and value == b"GET" else (name, value)
