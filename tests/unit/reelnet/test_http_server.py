"""What a connection may cost before its request is anybody's: a true server, and bytes of the tests' own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from reelnet.http_protocol import BoundedProtocol
from reelnet.http_server import bind, serve_http, serve_on
from reelnet.settings import HttpLimits, HttpListener, Listener

PATIENCE_S = 20.0
"""Longest wait for something that has to happen."""
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


class Echo:
    """An application that answers with the body's length, and remembers what it was asked; `/early` reads nothing."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.read = 0
        """Bytes of the newest body."""
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.read, more = 0, scope["path"] != "/early"
        while more:
            message: Message = await receive()
            if message["type"] == "http.disconnect":
                self.left.set()
                return
            self.read += len(message["body"])
            more = message["more_body"]
        body = str(self.read).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


class Line:
    """A client's connection, of which the test says each byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:-2])
            return int(head.split()[1]), await self._reader.readexactly(int(lines[b"content-length"]))

    async def end(self) -> bytes:
        """What still comes until the server has closed."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    async def quiet(self) -> bool:
        """Whether the server says nothing for a moment."""
        try:
            async with asyncio.timeout(0.05):
                return await self._reader.read(1) == b"never"
        except TimeoutError:
            return True

    async def flood(self, piece: bytes, most: int) -> int:
        """Sends a piece again and again until the server closes; the bytes that were sent, which `most` bounds."""
        sent = 0
        try:
            while sent < most and not self._reader.at_eof():
                await self.send(piece)
                sent += len(piece)
        except (ConnectionResetError, BrokenPipeError):
            pass
        return sent

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def served(app: Echo, **limits: Any) -> AsyncIterator[Callable[[], Any]]:
    """Opens connections to a server with these limits."""
    lines: list[Line] = []
    async with serve_http(app, HttpListener(limits=HttpLimits(**limits)), "http") as port:

        async def connect() -> Line:
            lines.append(Line(*await asyncio.open_connection("127.0.0.1", port)))
            return lines[-1]

        try:
            yield connect
        finally:
            for line in lines:
                line.close()


async def test_a_head_in_pieces_is_a_head() -> None:
    """Bytes that come one by one make the same request, and so does the next one on that connection."""
    app = Echo()
    async with served(app) as connect:
        line = await connect()
        for body in (b"", b"12345"):
            for byte in POST + b"content-length: %d\r\n\r\n" % len(body) + body:
                await line.send(bytes([byte]))
            assert await line.answer() == (200, b"%d" % len(body))
    assert [(b"host", b"x") in scope["headers"] for scope in app.scopes] == [True, True]


HEADS: list[Any] = [
    pytest.param(b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", id="line"),
    pytest.param(GET + b"a: " + b"x" * 2000 + b"\r\n\r\n", id="value"),
    pytest.param(GET + b"x" * 2000 + b": a\r\n\r\n", id="name"),
    pytest.param(GET + b"".join(b"a%d: xxxxxxxx\r\n" % i for i in range(100)) + b"\r\n", id="sum"),
    pytest.param(GET + b"a:\r\n" * 20 + b"\r\n", id="number"),
    pytest.param(GET + b"a: " + b"x" * 2000, id="unfinished-value"),
    pytest.param(b"GET /" + b"x" * 2000, id="unfinished-line"),
]


@pytest.mark.parametrize("head", HEADS)
async def test_a_head_over_its_bounds_is_refused(head: bytes) -> None:
    """431 whether it is one long header or many, whole or not, and nothing is asked of the application."""
    app = Echo()
    async with served(app, head_bytes=1024, headers=20) as connect:
        line = await connect()
        await line.send(head)
        status, body = await line.answer()
        assert (status, b"20 headers in 1024 bytes" in body) == (431, True)
        assert await line.end() == b""
        again = await connect()
        await again.send(GET + b"a: " + b"x" * 900 + b"\r\n" + b"b:\r\n" * 18 + b"\r\n")
        assert (await again.answer())[0] == 200
    assert len(app.scopes) == 1


async def test_the_second_head_of_a_connection_is_bounded_as_the_first() -> None:
    """What was counted for one request is not held against the next."""
    async with served(Echo(), head_bytes=1024) as connect:
        line = await connect()
        for _ in range(3):
            await line.send(GET + b"a: " + b"x" * 600 + b"\r\n\r\n")
            assert (await line.answer())[0] == 200
        await line.send(GET + b"a: " + b"x" * 1100)
        assert (await line.answer())[0] == 431


ENDLESS: list[Any] = [
    pytest.param(GET + b"a: ", b"x" * 65536, id="header"),
    pytest.param(GET, b"a: b\r\n" * 10_000, id="headers"),
    pytest.param(b"GET /", b"x" * 65536, id="line"),
    pytest.param(b"", b"\r\n" * 32768, id="empty-lines"),
    pytest.param(POST + CHUNKED + b"1;a=", b"x" * 65536, id="chunk-extension"),
    pytest.param(POST + CHUNKED + b"1\r\nx\r\n0\r\na: ", b"x" * 65536, id="trailer"),
    pytest.param(POST + CHUNKED + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 10_000, id="trailers"),
    pytest.param(POST + CHUNKED, b"0" * 65536, id="chunk-size"),
]


@pytest.mark.parametrize(("start", "piece"), ENDLESS)
async def test_what_makes_no_request_is_not_kept(start: bytes, piece: bytes) -> None:
    """A head, or what stands around the pieces of a body, that has no end: the server closes after some pieces."""
    async with served(Echo()) as connect:
        line = await connect()
        await line.send(start)
        assert await line.flood(piece, most=2**28) < 2**28
        await line.end()


async def until(so: Callable[[], bool]) -> None:
    """Until the application has come so far."""
    async with asyncio.timeout(PATIENCE_S):
        while not so():  # what is waited for has no event of its own
            await asyncio.sleep(0.002)


async def test_a_small_piece_has_as_much_around_it_as_it_needs() -> None:
    """A body in pieces of a byte is six times as long as it says, all of it together far over a head's bound."""
    app = Echo()
    async with served(app, head_bytes=1024) as connect:
        line = await connect()
        await line.send(POST + CHUNKED + b"1\r\nx\r\n" * 10_000)
        await until(lambda: app.read == 10_000)
        await line.send(b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
        assert await line.answer() == (200, b"20000")


async def test_what_stands_around_a_body_is_bounded_by_itself() -> None:
    """A head with what is behind its body, what is around a piece, and the next head: each may have all of it."""
    app, much = Echo(), b"x" * 600
    async with served(app, head_bytes=1024) as connect:
        line = await connect()
        await line.send(POST + b"a: " + much + b"\r\n" + CHUNKED)
        await until(lambda: len(app.scopes) == 1)
        await line.send(b"1;a=" + much)
        await line.send(b"\r\nx\r\n")
        await until(lambda: app.read == 1)
        await line.send(b"0\r\na: " + much[:300] + b"\r\n\r\n")
        assert await line.answer() == (200, b"1")
        await line.send(GET + b"a: " + much + much[:200])
        assert await line.quiet()
        await line.send(b"\r\n\r\n")
        assert await line.answer() == (200, b"0")


async def test_a_connection_leaves_no_timer_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends before its head is complete is not looked at again."""
    lost, ended = BoundedProtocol.connection_lost, asyncio.Event()
    left: list[BoundedProtocol] = []

    def losing(self: BoundedProtocol, error: Exception | None) -> None:
        lost(self, error)
        left.append(self)
        ended.set()

    monkeypatch.setattr(BoundedProtocol, "connection_lost", losing)
    async with served(Echo()) as connect:
        line = await connect()
        await line.send(GET)
        line.close()
        async with asyncio.timeout(PATIENCE_S):
            await ended.wait()
    assert [protocol._patience for protocol in left] == [None]


async def test_a_header_behind_the_body_is_dropped() -> None:
    """The request is under way with the headers that were looked at; a key that comes later is none."""
    app = Echo()
    async with served(app) as connect:
        line = await connect()
        await line.send(POST + CHUNKED + b"1\r\nx\r\n0\r\nauthorization: Bearer x\r\n\r\n")
        assert await line.answer() == (200, b"1")
    assert [name for name, _ in app.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize("start", [b"", b"G", GET, b"\r\n\r\n"])
async def test_a_head_that_is_late_ends_its_connection(start: bytes) -> None:
    """Also one that has not begun, on a new connection."""
    app = Echo()
    async with served(app, head_s=0.05) as connect:
        line = await connect()
        await line.send(start)
        assert await line.end() == b""
    assert app.scopes == []


async def test_a_head_that_drips_ends_too() -> None:
    """The time is the whole head's: a byte now and then does not lengthen it, on a connection that was used before."""
    async with served(Echo(), head_s=0.3) as connect:
        line = await connect()
        await line.send(GET + b"\r\n")
        assert (await line.answer())[0] == 200
        await line.send(GET + b"a: ")
        ended = asyncio.create_task(line.end())
        while not ended.done():
            await line.flood(b"x", most=1)
            await asyncio.sleep(0.01)
        assert await ended == b""


async def test_a_used_connection_may_rest_and_a_slow_body_come() -> None:
    """A head's time is neither that of an idle connection nor of a body that somebody reads."""
    async with served(Echo(), head_s=0.3) as connect:
        line = await connect()
        await line.send(POST + b"content-length: 2\r\n\r\n1")
        await asyncio.sleep(0.4)
        await line.send(b"2")
        assert await line.answer() == (200, b"2")
        await asyncio.sleep(0.4)
        await line.send(GET + b"\r\n")
        assert await line.answer() == (200, b"0")


@pytest.mark.parametrize("more", [b"2", b""])
async def test_a_body_that_nobody_reads_ends_in_time(more: bytes) -> None:
    """An answer that came before the body was whole leaves no connection for long, whether more comes or not."""
    async with served(Echo(), head_s=0.3) as connect:
        line = await connect()
        await line.send(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n1")
        assert await line.answer() == (200, b"0")
        await line.send(more)
        assert await line.end() == b""


async def test_one_connection_too_many_is_refused() -> None:
    """503 with a time to ask again; a place is free when one has ended."""
    async with served(Echo(), connections=1) as connect:
        first = await connect()
        await first.send(GET + b"\r\n")
        assert (await first.answer())[0] == 200
        second = await connect()
        answer = await second.end()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in answer
        await first.send(GET + b"connection: close\r\n\r\n")
        assert (await first.answer())[0] == 200
        assert await first.end() == b""
        third = await connect()
        await third.send(GET + b"\r\n")
        assert (await third.answer())[0] == 200


LENGTHS: list[Any] = [
    pytest.param(b"content-length: -1\r\n", id="negative"),
    pytest.param(b"content-length: +1\r\n", id="signed"),
    pytest.param(b"content-length: \xb2\r\n", id="superscript"),
    pytest.param("content-length: ٣\r\n".encode(), id="arabic"),
    pytest.param(b"content-length: 1_0\r\n", id="underscore"),
    pytest.param(b"content-length: 0x1\r\n", id="hex"),
    pytest.param(b"content-length: 1, 1\r\n", id="list"),
    pytest.param(b"content-length: 1\r\ncontent-length: 1\r\n", id="twice"),
    pytest.param(b"content-length: 1\r\ncontent-length: 2\r\n", id="two"),
    pytest.param(b"content-length: " + b"9" * 500 + b"\r\n", id="huge"),
    pytest.param(b"content-length: 1\r\ntransfer-encoding: chunked\r\n", id="both"),
    pytest.param(b"transfer-encoding: chunked\r\ncontent-length: 1\r\n", id="both-turned"),
]


@pytest.mark.parametrize("header", LENGTHS)
async def test_a_length_that_is_no_number_is_no_request(header: bytes) -> None:
    """Two readers that take such a length differently would see two requests where there is one."""
    app = Echo()
    async with served(app) as connect:
        line = await connect()
        await line.send(POST + header + b"\r\n1")
        assert (await line.answer())[0] == 400
        assert await line.end() == b""


async def test_a_body_that_breaks_off_is_told_to_its_reader() -> None:
    """What is no chunk ends the connection, and the application hears that its client left."""
    app = Echo()
    async with served(app) as connect:
        line = await connect()
        await line.send(POST + CHUNKED + b"1\r\nx\r\n")
        await line.send(b"zz\r\n")
        assert await line.end() == b""
        async with asyncio.timeout(PATIENCE_S):
            await app.left.wait()


async def test_every_server_has_bounds() -> None:
    """Also one whose listener says nothing of them."""
    app = Echo()
    async with serve_http(app, Listener(), "metrics") as port:
        line = Line(*await asyncio.open_connection("127.0.0.1", port))
        await line.send(GET + b"a: b\r\n" * 200 + b"\r\n")
        assert (await line.answer())[0] == 431
        line.close()
    sock = bind(Listener(), "floor")
    port = sock.getsockname()[1]
    async with serve_on(app, sock, "floor"):
        line = Line(*await asyncio.open_connection("127.0.0.1", port))
        await line.send(GET + b"a: b\r\n" * 200 + b"\r\n")
        assert (await line.answer())[0] == 431
        line.close()
    assert app.scopes == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
