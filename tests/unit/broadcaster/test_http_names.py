"""By which name a request came, and which pages may send it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from starlette.types import Message, Scope

from broadcaster.http_guard import Prefix
from broadcaster.http_names import Forwarded, OpenMedia, OriginGuard
from tests.unit.broadcaster.test_http_guard import Reached, ask

PROXY = (ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        ((), "https://evil.example", 403),
        ((), "http://127.0.0.1:9935", 200),
        ((), "null", 403),
        ((), "", 200),
        (("https://app.example",), "https://app.example", 200),
        (("https://app.example",), "https://app.example.evil.example", 403),
        (("https://app.example",), "http://app.example", 403),
        (("*",), "https://evil.example", 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_other_pages_may_not_call(origins: tuple[str, ...], origin: str, status: int, method: str) -> None:
    """A browser sends a form to anywhere: a page that is not allowed starts no job, and reads nothing."""
    app = Reached()
    guard = OriginGuard(app, origins)
    headers = {"origin": origin} if origin else {}
    assert (await ask(guard, method=method, host="127.0.0.1:9935", **headers))[0] == status
    assert bool(app.scopes) is (status == 200)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9935", 200),
        ("127.0.0.5", 200),
        ("[::1]:9935", 200),
        ("localhost:9935", 200),
        ("LOCALHOST", 200),
        ("reelnet.localhost:9935", 200),
        ("gpu-box:9935", 200),
        ("media.example", 200),
        ("Media.Example:443", 200),
        ("media.example.", 200),
        ("", 200),
        ("evil.example", 403),
        ("evil.example:9935", 403),
        ("media.example.evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.1@evil.example", 403),
        ("evil_one.example", 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_a_name_that_others_let_point_here_is_not_ours(host: str, status: int, method: str) -> None:
    """A page reads from its own name without an `Origin`: by that name it is refused, whatever it asks."""
    guard = OriginGuard(Reached(), (), own_host="media.example")
    headers = {"host": host} if host else {}
    got, body = await ask(guard, "/models", method=method, **headers)
    assert got == status
    if status == 403:
        assert (body["error"]["code"], "public_url" in body["error"]["message"]) == ("host", True)


@pytest.mark.parametrize("host", ["evil.example", "gpu-box:9935"])
async def test_a_page_is_not_of_our_origin_by_any_name(host: str) -> None:
    """Also where it and the address that it calls have the same one."""
    status, body = await ask(OriginGuard(Reached(), ()), host=host, origin=f"http://{host}")
    assert (status, body["error"]["code"]) == (403, "origin")


async def test_where_every_page_may_call_names_do_not_matter() -> None:
    """As they would keep nobody out."""
    assert (await ask(OriginGuard(Reached(), ("*",)), host="evil.example"))[0] == 200


async def called(peer: str, **headers: str) -> Scope:
    """The scope that the application gets of a proxied request."""
    app = Reached()
    raw = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    scope: Scope = {
        "type": "http", "method": "GET", "path": "/models", "root_path": "", "scheme": "http",
        "headers": [(b"host", b"10.0.0.7:9935"), *raw], "client": (peer, 1),
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(_: Message) -> None:
        pass

    await Forwarded(OriginGuard(app, ()), PROXY)(scope, receive, send)
    return app.scopes[0] if app.scopes else {}


def address(scope: Scope) -> tuple[str, str]:
    """Scheme and host."""
    return scope["scheme"], dict(scope["headers"])[b"host"].decode()


@pytest.mark.parametrize("peer", ["127.0.0.1", "fd12::1"])
async def test_a_named_proxy_says_how_it_was_called(peer: str) -> None:
    """Scheme and host; the name that it tells is one of ours."""
    scope = await called(peer, x_forwarded_proto="HTTPS", x_forwarded_host="api.example:8443")
    assert address(scope) == ("https", "api.example:8443")


@pytest.mark.parametrize("peer", ["10.0.0.1", "127.0.0.2", "::1", "", "unix:"])
async def test_nobody_else_is_believed(peer: str) -> None:
    """Neither word of a client's own changes a link."""
    scope = await called(peer, x_forwarded_proto="https", x_forwarded_host="evil.example")
    assert address(scope) == ("http", "10.0.0.7:9935")


@pytest.mark.parametrize(
    ("proto", "host", "seen"),
    [
        ("https", "", ("https", "10.0.0.7:9935")),
        ("", "api.example", ("http", "api.example")),
        ("ftp", "api.example", ("http", "api.example")),
        ("https", 'api.example"><x', ("https", "10.0.0.7:9935")),
        ("http, https", "evil.example, api.example", ("https", "api.example")),
        ("https", "api.example/x", ("https", "10.0.0.7:9935")),
    ],
)
async def test_what_a_proxy_says_is_read_with_care(proto: str, host: str, seen: tuple[str, str]) -> None:
    """Of a list the last, which the proxy itself has added; what is no scheme and no host changes nothing."""
    said = {name: value for name, value in (("x_forwarded_proto", proto), ("x_forwarded_host", host)) if value}
    assert address(await called("127.0.0.1", **said)) == seen


async def media(method: str = "GET", path: str = "/media/a.png", **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer below `/media/`, behind everything that may refuse a page."""
    sent: list[Message] = []

    async def refuses(scope: Scope, receive: Any, send: Any) -> None:
        raise AssertionError("this page is not asked where it comes from")

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: Scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": raw}
    await Prefix(OpenMedia(refuses, media=Reached()), "/ai")(scope, receive, send)
    return sent[0]["status"], {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("path", ["/media/a.png", "/ai/media/a.png"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_every_page_reads_results(path: str, method: str) -> None:
    """From any origin, under any name, and the headers too that say what it got."""
    status, headers = await media(method, path, origin="https://app.example", host="evil.example")
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    assert {"Content-Range", "ETag"} <= set(headers["access-control-expose-headers"].split(", "))


async def test_a_browser_may_ask_before_it_reads() -> None:
    """For a header of the page's own, such as Authorization, which `*` does not mean."""
    asks = {"access_control_request_method": "GET", "access_control_request_headers": "authorization,range"}
    status, headers = await media("OPTIONS", origin="https://app.example", **asks)
    assert (status, headers["access-control-allow-origin"]) == (204, "*")
    assert headers["access-control-allow-methods"] == "GET, HEAD"
    assert {"*", "authorization"} <= set(headers["access-control-allow-headers"].split(", "))
