"""The operator's way to a running component: HTTP and JSON on the Unix socket in its state folder, mode 0600.

An error is `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from reelnet.errors import ConfigError, StartError, printable
from reelnet.operating.control_socket import listening

BODY_BYTES = 4096
"""No request needs a body."""
LOG_LINES = 10_000
LOG_CHARS = 4 * 2**20
STOP_S = 2.0
HEAD_BYTES = 4096
Query = Mapping[str, str]
Route = Callable[[Query], Awaitable[Mapping[str, Any]]]
"""Answers a request with a JSON document. Raises RequestError, ConfigError or StartError."""
Routes = Mapping[tuple[str, str], Route]
"""What is served, by method and path."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = structlog.get_logger()


class RequestError(Exception):
    """A request that this program's own client does not send."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@asynccontextmanager
async def serve_control(routes: Routes, folder: Path, limit_s: float = 30) -> AsyncIterator[None]:
    """Serves a component's control socket in `folder` for the length of the block; `limit_s` bounds each request.

    Raises StartError when the socket cannot be made.
    """
    runner = web.AppRunner(
        control_app(routes, limit_s),
        handle_signals=False,
        access_log=None,
        shutdown_timeout=STOP_S,
        keepalive_timeout=limit_s,
        max_line_size=HEAD_BYTES,
        max_field_size=HEAD_BYTES,
    )
    with listening(folder) as sock:
        await runner.setup()
        try:
            await web.SockSite(runner, sock).start()
            yield
        finally:
            await runner.cleanup()


def control_app(routes: Routes, limit_s: float) -> web.Application:
    """The application over a component's routes."""
    app = web.Application(middlewares=[_answering(limit_s)], client_max_size=BODY_BYTES)
    for (method, path), route in routes.items():
        for answered in ("GET", "HEAD") if method == "GET" else (method,):
            app.router.add_route(answered, path, _handler(route))
    return app


def lines_asked(query: Query) -> int:
    """How many lines of a log a request asks for. Raises RequestError."""
    text = query.get("lines", "100")
    if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= LOG_LINES:
        return int(text)
    raise RequestError(400, "lines", f"lines: expected a number from 1 to {LOG_LINES}")


def _handler(route: Route) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        return web.json_response(await route(request.query))

    return handle


def _answering(limit_s: float) -> Middleware:
    """Bounds each request in time, and says as JSON why one was not served."""

    @web.middleware
    async def answering(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(limit_s):
                return await handler(request)
        except RequestError as error:
            return _failure(error.status, error.code, str(error))
        except ConfigError as error:
            return _failure(422, "config", str(error))
        except StartError as error:
            return _failure(503, "engine", str(error))
        except TimeoutError:
            return _failure(504, "timeout", f"no answer within {limit_s:g} s; look into the log")
        except web.HTTPException as error:
            message = f"{error.reason}: {request.method} {printable(request.path, 80)}"
            answer = _failure(error.status, "request", message)
            if "Allow" in error.headers:
                answer.headers["Allow"] = error.headers["Allow"]
            return answer
        except Exception:  # outermost: an operator's question must not take the component down
            log.exception("a request on the control socket failed by a fault of this program", path=request.path)
            return _failure(500, "internal", "a fault of the program's own; its log has the details")

    return answering


def _failure(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
