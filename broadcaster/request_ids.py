"""A request's id: in the head of its answer, in the body of an error, and in every line of the log about it."""

from __future__ import annotations

from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from reelnet.http_headers import REQUEST_ID, request_id

_current: ContextVar[str] = ContextVar("request_id", default="")


def current_request() -> str:
    """The id of the request that is being answered; empty outside of one."""
    return _current.get()


class RequestIds:
    """Gives each request its id. An answer to HEAD has the head of the answer to GET and no body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        named = request_id(scope)
        _current.set(named)
        bind_contextvars(request=named)
        id_header, bare = (REQUEST_ID.encode(), named.encode()), scope["method"] == "HEAD"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), id_header]
            elif bare and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        await self._app(scope, receive, sending)
