"""The straight way to a route of a FastAPI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from reelnet.errors import ReelnetError

log = structlog.get_logger()
OnError = Callable[[Request, Any], Awaitable[Response]]
Handler = Callable[[Request], Awaitable[Response]]


class Answer(Response):
    """A whole body under headers that are bytes already: Starlette takes longer to make them so than to send them."""

    def __init__(self, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.status_code, self.background = 200, None
        self.body = body
        self.raw_headers = [(b"content-length", str(len(body)).encode()), *headers]


def header(scope: Scope, name: bytes) -> str:
    """A request's header by its name in lower case; empty where there is none."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value, "latin-1")
    return ""


async def whole_body(receive: Receive) -> bytes:
    """A request's body. Raises ClientDisconnect."""
    pieces: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)


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
        except Exception as error:
            log.exception("a request failed by a fault of this program", path=scope["path"])
            response = await self._on_fault(request, error)
        await response(scope, receive, send)

    def _find(self, scope: Scope) -> Handler | None:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
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
