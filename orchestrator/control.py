"""The operator's way to a running node: HTTP and JSON on the Unix socket in its state folder, mode 0600.

`GET /status`, `POST /drain`, `POST /resume` answer with the node's status; `POST /reload` with what changed;
`GET /logs?slot=S&lines=N` with a runner's last lines. An error is `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from orchestrator.control_socket import listening
from orchestrator.status import NodeStatus, to_document
from reelnet.errors import ConfigError, StartError, printable
from reelnet.pipelines import did_you_mean

BODY_BYTES = 4096
"""No request needs a body."""
LOG_LINES = 10_000
LOG_CHARS = 4 * 2**20
STOP_S = 2.0
HEAD_BYTES = 4096
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
log = structlog.get_logger()


class Controlled(Protocol):
    """What an operator can ask of a node."""

    def status(self) -> NodeStatus:
        """The node as it is now, from memory."""

    def drain(self) -> None:
        """Takes no new job from now on; those that are here go on. Safe to repeat."""

    def resume(self) -> None:
        """Takes jobs again. Safe to repeat."""

    async def reload(self) -> tuple[str, ...]:
        """Reads the configuration again; returns what changed, a line each. After a ConfigError nothing is changed."""

    async def logs(self, slot: str, lines: int) -> str:
        """The last lines of a slot's runner. Raises StartError when its engine cannot give them."""


@asynccontextmanager
async def serve_control(controlled: Controlled, folder: Path, limit_s: float = 30) -> AsyncIterator[None]:
    """Serves the node's control socket in `folder` for the length of the block; `limit_s` bounds each request.

    Raises StartError when the socket cannot be made.
    """
    runner = web.AppRunner(
        control_app(controlled, limit_s),
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


def control_app(controlled: Controlled, limit_s: float) -> web.Application:
    """The application over one node."""
    routes = _Routes(controlled)
    app = web.Application(middlewares=[_answering(limit_s)], client_max_size=BODY_BYTES)
    app.router.add_get("/status", routes.status)
    app.router.add_get("/logs", routes.logs)
    app.router.add_post("/drain", routes.drain)
    app.router.add_post("/resume", routes.resume)
    app.router.add_post("/reload", routes.reload)
    return app


class _BadRequestError(Exception):
    """A request that this program's own client does not send."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Routes:
    """The requests, each a call of the node."""

    def __init__(self, controlled: Controlled) -> None:
        self._controlled = controlled
        self._reloading = asyncio.Lock()

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response(to_document(self._controlled.status()))

    async def drain(self, request: web.Request) -> web.Response:
        self._controlled.drain()
        log.info("drain was asked for")
        return await self.status(request)

    async def resume(self, request: web.Request) -> web.Response:
        self._controlled.resume()
        log.info("resume was asked for")
        return await self.status(request)

    async def reload(self, request: web.Request) -> web.Response:
        async with self._reloading:
            changed = await self._controlled.reload()
        log.info("configuration reloaded", changed=changed)
        return web.json_response({"changed": changed})

    async def logs(self, request: web.Request) -> web.Response:
        slots = {slot.slot: slot for slot in self._controlled.status().slots}
        slot = request.query.get("slot", "")
        if slot not in slots:
            raise _BadRequestError(404, "slot", f"there is no slot {printable(slot, 80)!r}{did_you_mean(slot, slots)}")
        text = await self._controlled.logs(slot, _lines(request.query.get("lines", "100")))
        return web.json_response({"text": text[-LOG_CHARS:]})


def _lines(text: str) -> int:
    if text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= LOG_LINES:
        return int(text)
    raise _BadRequestError(400, "lines", f"lines: expected a number from 1 to {LOG_LINES}")


def _answering(limit_s: float) -> Middleware:
    """Bounds each request in time, and says as JSON why one was not served."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(limit_s):
                return await handler(request)
        except _BadRequestError as error:
            return _failure(error.status, error.code, str(error))
        except ConfigError as error:
            return _failure(422, "config", str(error))
        except StartError as error:
            return _failure(503, "engine", str(error))
        except TimeoutError:
            return _failure(504, "timeout", f"the node did not answer within {limit_s:g} s; look into its log")
        except web.HTTPException as error:
            return _failure(error.status, "request", f"{error.reason}: {request.method} {printable(request.path, 80)}")
        except Exception:  # outermost: an operator's question must not take the node down
            log.exception("a request on the control socket failed by a fault of this program", path=request.path)
            return _failure(500, "internal", "a fault of the node's own; its log has the details")

    return answer


def _failure(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)
