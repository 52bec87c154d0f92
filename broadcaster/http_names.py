"""By which name a request came: what a proxy says of it, and which names, and which pages, are answered."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broadcaster.errors_http import error_response
from reelnet.errors import RefusedError, printable
from reelnet.http_headers import REQUEST_ID, header, header_list, host_name, host_of, is_address
from reelnet.http_routes import route_path

MEDIA_PATH = "/media/"
SHOWN_HEADERS = ("Retry-After", "WWW-Authenticate", "X-Request-Id")
"""Headers of an answer that an allowed page may read, beside those that every page may."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_PROXIED = "proxied"
_MAX_SHOWN_CHARS = 100
_MEDIA_PREFLIGHT = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, HEAD"),
    (b"access-control-allow-headers", b"*, authorization"),
    (b"access-control-max-age", b"86400"),
    (b"vary", b"Access-Control-Request-Method"),
)
_MEDIA_SHOWN = (
    (b"access-control-allow-origin", b"*"),
    (
        b"access-control-expose-headers",
        b"Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, " + REQUEST_ID.encode(),
    ),
)


class Forwarded:
    """Takes over from a named proxy how its client called it: `X-Forwarded-Proto` and `X-Forwarded-Host`.

    Of each the last value counts: a client can send some too, but the proxy writes its own behind them. Anybody else's
    are not looked at.
    """

    def __init__(self, app: ASGIApp, proxies: Iterable[Network]) -> None:
        self._app = app
        self._proxies = tuple(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if self._proxies and scope["type"] == "http" and self._is_named(scope):
            scope = _as_called(scope)
        await self._app(scope, receive, send)

    def _is_named(self, scope: Scope) -> bool:
        host = (scope.get("client") or ("",))[0]
        return is_address(host) and any(ipaddress.ip_address(host) in network for network in self._proxies)


def _as_called(scope: Scope) -> Scope:
    scheme = _last(scope, b"x-forwarded-proto").lower()
    host = host_of(_last(scope, b"x-forwarded-host"))
    changed = {**scope, "state": {**scope.get("state", {}), _PROXIED: True}}
    if scheme in ("http", "https"):
        changed["scheme"] = scheme
    if host:
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        changed["headers"] = [*others, (b"host", host.encode("ascii"))]
    return changed


def _last(scope: Scope, name: bytes) -> str:
    return header_list(scope, name).rpartition(",")[2].strip()


class OriginGuard:
    """Refuses what a browser may send for a page that is not allowed: whoever opens a page must not pay for its jobs.

    A page is known by its `Origin`. A form needs no permission to be sent, so CORS alone would only hide the answer. A
    page that reads without `Origin`, from a name that it lets point here, is known by that name in `Host`.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...], own_host: str = "") -> None:
        self._app = app
        self._origins = origins
        self._own_name = host_name(own_host)
        self._own_host = own_host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        error = self._refusal(scope) if scope["type"] == "http" and "*" not in self._origins else None
        if error:
            await error_response(error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        host, origin = header(scope, b"host"), header(scope, b"origin")
        proxied = scope.get("state", {}).get(_PROXIED, False)
        if origin and origin not in self._origins and not self._same(origin, host, proxied):
            shown = printable(origin, _MAX_SHOWN_CHARS)
            return RefusedError(f"pages of {shown} may not call this API; see cors_origins", code="origin")
        if host and not proxied and not self._answers_to(host_name(host)):
            shown = printable(host, _MAX_SHOWN_CHARS)
            message = f"this broadcaster is not known as {shown}; set public_url to the address that clients call"
            return RefusedError(f"{message}, or name the proxy before it in proxies", code="host")
        return None

    def _same(self, origin: str, host: str, proxied: bool) -> bool:
        """Whether a page is of the address that it calls, and that address is ours."""
        # A name that an attacker lets point here is also "the same origin": only our own names count.
        name = host_name(host)
        ours = proxied or is_address(name) or _is_local(name) or (self._own_host and host.lower() == self._own_host)
        return bool(ours) and _host_in(origin) == host.lower()

    def _answers_to(self, name: str) -> bool:
        """Whether a name is none that a stranger can let point here: his would have a dot in it."""
        return is_address(name) or _is_local(name) or (name != "" and "." not in name) or name == self._own_name


def _host_in(origin: str) -> str:
    """The host and port of an origin, lower case; empty for what is none."""
    return origin.partition("://")[2].lower()


def _is_local(name: str) -> bool:
    """Whether browsers take a name for this machine without asking anybody."""
    return name == "localhost" or name.endswith(".localhost")


class OpenMedia:
    """Lets every page read results: their names cannot be guessed, and `Cross-Origin-Resource-Policy` promises it.

    `media` answers what is below `/media/`, `app` everything else.
    """

    def __init__(self, app: ASGIApp, media: ASGIApp) -> None:
        self._app = app
        self._media = media

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http" or not route_path(scope).startswith(MEDIA_PATH):
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and header(scope, b"access-control-request-method"):
            await send({"type": "http.response.start", "status": 204, "headers": list(_MEDIA_PREFLIGHT)})
            await send({"type": "http.response.body", "body": b""})
        else:

            async def shown(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message.get("headers", ()), *_MEDIA_SHOWN]
                await send(message)

            await self._media(scope, receive, shown)
