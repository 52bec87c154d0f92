"""The Docker SDK, which blocks, behind calls that can be waited for: the only file that imports it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from typing import Any, TypeVar

from docker import APIClient
from docker.auth import get_config_header, resolve_repository_name
from docker.errors import APIError, DockerException

from orchestrator.docker_container import DockerOptions
from orchestrator.docker_errors import explained, unreachable

CALLS_AT_ONCE = 8
T = TypeVar("T")


class DockerApi:
    """Calls of the engine's API, each in one of a few threads and with a bound; see SECURITY.md for which they are."""

    def __init__(self, options: DockerOptions) -> None:
        self._options = options
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE, thread_name_prefix="docker")
        self._under_way: set[Future[Any]] = set()
        self._client: APIClient | None = None
        self._lock = threading.Lock()

    async def call(self, doing: str, use: Callable[[APIClient], T]) -> T:
        """What `use` returns. Raises GoneError, RefusedError, UnreachableError, or EngineError with what to do."""
        future = self._threads.submit(self._work, use)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        try:
            async with asyncio.timeout(self._options.api_s):
                return await asyncio.wrap_future(future)
        except APIError as error:
            raise explained(doing, error.status_code or 0, str(error.explanation or error)) from None
        except (DockerException, OSError) as error:
            raise unreachable(self._options.socket, error) from None

    async def settle(self) -> None:
        """Until the calls are over that somebody left."""
        await asyncio.to_thread(wait_for, set(self._under_way), self._options.api_s)

    async def close(self) -> None:
        """Ends the threads."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._client is not None:
            self._client.close()

    def _work(self, use: Callable[[APIClient], T]) -> T:
        try:
            _knock(self._options.socket, self._options.api_s)
            return use(self._connected())
        except APIError:
            raise
        except (DockerException, OSError):
            self._client = None  # the engine that comes back may be another version
            raise

    def _connected(self) -> APIClient:
        with self._lock:
            if self._client is None:
                base_url = f"unix://{self._options.socket}"
                self._client = APIClient(base_url, version="auto", timeout=self._options.api_s)
            return self._client


def _knock(path: Path, limit_s: float) -> None:
    """Raises what is wrong with the engine's socket: the SDK hides that, and leaves its own socket open over it."""
    with socket.socket(socket.AF_UNIX) as tried:
        tried.settimeout(limit_s)
        tried.connect(str(path))


def registry_headers(client: APIClient, repository: str) -> Mapping[str, str]:
    """What the registry asks of who downloads: the operator's `docker login`, if there is one."""
    registry, _ = resolve_repository_name(repository)
    header = get_config_header(client, registry)
    return {"X-Registry-Auth": header.decode() if isinstance(header, bytes) else header} if header else {}
