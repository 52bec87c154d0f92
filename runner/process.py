"""The life of a runner process: its listeners, its signals, its parent and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from reelnet.errors import StartError
from reelnet.home import instance_dir
from reelnet.http_protocol import bounded_protocol
from reelnet.lifecycle import settle_memory
from reelnet.settings import Listener
from runner.settings import RunnerSettings
from runner.worker import Worker

log = structlog.get_logger()

BACKLOG = 64
KEEP_ALIVE_S = 75
"""Longer than clients keep an idle connection, so that none is closed under a request."""
MAX_SOCKET_PATH_BYTES = 107
"""What fits into sockaddr_un."""
PROBE = (b"user-agent", b"reelnet-probe")
"""The header of a container's own health check, which says nothing of whether anybody needs the runner."""


def serve(app: FastAPI, settings: RunnerSettings) -> None:
    """Listens and serves until SIGTERM or SIGINT. Raises StartError when it cannot listen."""
    settle_memory()
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(listener) for listener in open_listeners(settings)]
        requests = RequestClock(app)
        config = uvicorn.Config(
            requests,
            loop="uvloop",
            http=bounded_protocol(settings.http),
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, int(settings.stop_timeout_s)),
        )
        worker: Worker = app.state.worker
        ends = Ends(settings.idle_exit_s, settings.defunct_exit_s)
        RunnerServer(config, worker, requests, ends).run(sockets=listeners)


def open_listeners(settings: RunnerSettings) -> list[contextlib.AbstractContextManager[socket.socket]]:
    """The sockets that the settings ask for; the default is a Unix socket in the runner's own folder."""
    opened: list[contextlib.AbstractContextManager[socket.socket]] = []
    if settings.socket or not settings.tcp:
        path = settings.socket or instance_dir("runner", "default") / "runner.sock"
        opened.append(unix_listener(path))
    if settings.tcp:
        opened.append(tcp_listener(settings.tcp))
    return opened


@contextlib.contextmanager
def unix_listener(path: Path) -> Iterator[socket.socket]:
    """Listens on `path` with mode 0600, and removes it at the end. Raises StartError."""
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise StartError(f"{path}: longer than the {MAX_SOCKET_PATH_BYTES} bytes of a socket path; use a shorter one")
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            _remove_stale(path)
            _bind_private(listener, path)
            listener.listen(BACKLOG)
        except OSError as error:
            raise StartError(f"{path}: cannot listen: {error.strerror or error}; does its folder exist?") from None
        log.info("listening", socket=str(path))
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def tcp_listener(at: Listener) -> Iterator[socket.socket]:
    """Listens on a loopback address. Raises StartError."""
    with socket.socket(socket.AF_INET6 if ":" in at.host else socket.AF_INET) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((at.host, at.port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise StartError(f"{at.host}:{at.port}: cannot listen: {error.strerror or error}; is it in use?") from None
        host, port = listener.getsockname()[:2]
        log.info("listening", tcp=f"{host}:{port}")
        yield listener


def _bind_private(listener: socket.socket, path: Path) -> None:
    """Binds with mode 0600 from the first moment on."""
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)


def _remove_stale(path: Path) -> None:
    """Removes the socket of a runner that is gone. Raises StartError when somebody listens on it."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise StartError(f"{path}: exists and is no socket; name another path")
    with socket.socket(socket.AF_UNIX) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise StartError(f"{path}: another runner listens there")
    path.unlink(missing_ok=True)


class RequestClock:
    """Passes requests on and knows for how long there has been none, health checks of its own container aside."""

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._clock = clock
        self._open = 0
        self._last = clock()

    @property
    def idle_s(self) -> float:
        """Seconds since the last request ended, 0 while one is open."""
        return 0.0 if self._open else self._clock() - self._last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http" or PROBE in scope["headers"]:
            return await self._app(scope, receive, send)
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
            self._last = self._clock()


@dataclass(frozen=True, slots=True)
class Ends:
    """Seconds after which a runner ends by itself: without a request (None: never), and with a lost device."""

    idle_s: float | None = None
    defunct_s: float = 30.0


class RunnerServer(uvicorn.Server):
    """A server that ends running jobs before it waits for their connections, and that ends with code 0 on SIGTERM."""

    def __init__(self, config: uvicorn.Config, worker: Worker, requests: RequestClock, ends: Ends) -> None:
        super().__init__(config)
        self._worker = worker
        self._requests = requests
        self._ends = ends

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's own raises the signal again after a clean stop, which would look like a crash."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield

    async def on_tick(self, counter: int) -> bool:
        """uvicorn asks ten times a second whether to end."""
        idle_s, lost_s = self._ends.idle_s, self._worker.defunct_s
        if idle_s is not None and self._requests.idle_s > idle_s:
            log.info("no request came", idle_exit_s=idle_s)
            return True
        if lost_s is not None and lost_s > self._ends.defunct_s:
            log.error("this runner exits, for its device is lost", reason=self._worker.status().reason)
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Jobs first, or their open streams would hold the shutdown up; then connections; then the app's own end."""
        self._worker.cancel_all()
        await super().shutdown(sockets)


def exit_with_stdin(leave: Callable[[int], object] = os._exit) -> threading.Thread:
    """Ends this process at once when its standard input ends: a parent that was killed leaves nothing behind."""
    thread = threading.Thread(target=_follow_stdin, args=(sys.stdin.fileno(), leave), name="stdin", daemon=True)
    thread.start()
    return thread


def _follow_stdin(source: int, leave: Callable[[int], object]) -> None:
    with contextlib.suppress(OSError):
        while os.read(source, 4096):
            pass
    leave(0)


def leave(worker: Worker) -> None:
    """After the server's end. Exits with 1 when the device is lost or a job did not stop.

    A model thread that still loads or computes must not meet the interpreter's own end.
    """
    failed = worker.current is not None or worker.defunct_s is not None
    if not worker.ended:
        log.warning("left a thread that does not stop", job=worker.current is not None)
        os._exit(1 if failed else 0)
    if failed:
        sys.exit(1)
