"""The operator's listener of a component: `/metrics`, `/livez` and `/readyz`, and nothing that changes state."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Info, generate_latest

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def new_registry(component: str) -> CollectorRegistry:
    """A registry of one component's own, with its build information."""
    registry = CollectorRegistry()
    info = Info("reelnet_build", "Version of the running software.", registry=registry)
    info.info({"component": component, "version": version("reelnet")})
    return registry


def metrics_app(registry: CollectorRegistry, ready: Callable[[], str | None]) -> Any:
    """An ASGI application. `ready` gives None when the component serves, else the reason why it does not."""

    def answer(path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE_LATEST, generate_latest(registry)
        if path == "/livez":
            return 200, "text/plain", b"alive\n"
        if path == "/readyz":
            reason = ready()
            return (503, "text/plain", f"{reason}\n".encode()) if reason else (200, "text/plain", b"ready\n")
        return 404, "text/plain", b"not found: /metrics, /livez, /readyz\n"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status, media_type, body = answer(scope["path"]) if scope["method"] == "GET" else (405, "text/plain", b"")
        headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app
