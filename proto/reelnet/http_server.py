"""An ASGI application served inside a component's own event loop, on a socket that is bound first."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from reelnet.errors import StartError
from reelnet.http_protocol import bounded_protocol
from reelnet.settings import HttpLimits, HttpListener, Listener

SHUTDOWN_GRACE_S = 5
DEFAULT_LIMITS = HttpLimits()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the component decides when to stop, and when to listen."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def listen(self, sock: socket.socket) -> None:
        """Takes connections of one more socket."""

        def connection() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        self.servers.append(await asyncio.get_running_loop().create_server(connection, sock=sock))

    def leave(self) -> None:
        """Takes no new connection; each one that is there is closed when it has its answer."""
        for server in self.servers:
            server.close()
        self.servers.clear()
        for connection in list(self.server_state.connections):
            connection.shutdown()


class HttpServer:
    """A served application. On a shared port it can leave new connections to the other instances that listen there."""

    def __init__(self, server: _Server, listener: Listener, what: str, port: int) -> None:
        self.port = port
        self._server = server
        self._listener = listener
        self._what = what
        self._away = False

    @property
    def shared(self) -> bool:
        """Whether other instances may listen on the port."""
        return isinstance(self._listener, HttpListener) and self._listener.shared

    def leave(self) -> None:
        """Takes no new connection where the port is shared; else nothing. Safe to repeat."""
        if self.shared and not self._away:
            self._away = True
            self._server.leave()

    async def come_back(self) -> None:
        """Takes connections again. Raises StartError when the port is taken meanwhile."""
        if self._away:
            await self._server.listen(bind(self._listener.model_copy(update={"port": self.port}), self._what))
            self._away = False


def bind(listener: Listener, what: str) -> socket.socket:
    """A bound TCP socket. Raises StartError that names the key to change when the port is taken."""
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if isinstance(listener, HttpListener) and listener.shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((listener.host, listener.port))
    except OSError as error:
        sock.close()
        raise StartError(
            f"cannot listen on {listener.host}:{listener.port}: {error.strerror}; free it, or set `{what}.port`"
        ) from None
    return sock


@asynccontextmanager
async def serve_http(app: Any, listener: Listener, what: str) -> AsyncIterator[int]:
    """Serves `app` for the length of the block; yields the port. `what` is the listener's key in the configuration."""
    async with serve_api(app, listener, what) as server:
        yield server.port


@asynccontextmanager
async def serve_api(app: Any, listener: Listener, what: str) -> AsyncIterator[HttpServer]:
    """As `serve_http`, for a server that may leave its port to others."""
    sock = bind(listener, what)
    port = int(sock.getsockname()[1])
    limits = listener.limits if isinstance(listener, HttpListener) else DEFAULT_LIMITS
    async with _serving(app, sock, f"http:{what}", limits) as server:
        yield HttpServer(server, listener, what, port)


@asynccontextmanager
async def serve_on(
    app: Any, sock: socket.socket, name: str, limits: HttpLimits = DEFAULT_LIMITS
) -> AsyncIterator[None]:
    """Serves `app` on a bound socket for the length of the block, and closes it. `name` is the task's."""
    async with _serving(app, sock, name, limits):
        yield


@asynccontextmanager
async def _serving(app: Any, sock: socket.socket, name: str, limits: HttpLimits) -> AsyncIterator[_Server]:
    config = uvicorn.Config(
        app,
        http=bounded_protocol(limits),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
        server_header=False,
        proxy_headers=False,  # who is believed is the application's to say: here every peer has the same address
        ws="none",
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[sock]), name=name)
    try:
        while not server.started:
            if task.done():
                await task
            await asyncio.sleep(0.005)
        yield server
    finally:
        server.should_exit = True
        await task
        sock.close()
