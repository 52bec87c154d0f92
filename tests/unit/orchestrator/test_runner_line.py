"""A connection to a runner: its requests, its answers in whatever pieces they come, and its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.runner_line import HEAD_BYTES, UNREAD_BYTES, HeadError, Line

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
KEPT_S = 60


class Wire:
    """What a line writes, and whether it reads; it ends as a socket does, by telling the line."""

    def __init__(self, line: Line) -> None:
        self.written = b""
        self.reads = True
        self.closed = False
        self._line = line
        line.connection_made(self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._line.connection_lost(None)


def chunk(data: bytes) -> bytes:
    """One piece of a body of unknown length."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def asked(silence_s: float = 5) -> tuple[Line, Wire, asyncio.Task[int]]:
    """A line that has sent a request and waits for the answer."""
    line = Line(silence_s)
    wire = Wire(line)
    asking = asyncio.create_task(line.post(b"/jobs", b'{"a":1}'))
    await asyncio.sleep(0)
    return line, wire, asking


async def body(line: Line) -> bytes:
    """The rest of an answer."""
    found = b""
    while piece := await line.readany():
        found += piece
    return found


@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_an_answer_is_the_same_in_whatever_pieces_it_comes(step: int) -> None:
    """Status and body come out of a stream cut anywhere, and the connection takes another request."""
    line, wire, asking = await asked()
    assert wire.written.endswith(b'\r\nContent-Length: 7\r\n\r\n{"a":1}')
    stream = HEAD + chunk(b"one\n") + chunk(b"two\n") + LAST
    for at in range(0, len(stream), step):
        line.data_received(stream[at : at + step])
    assert (await asking, await body(line)) == (200, b"one\ntwo\n")
    assert line.fit(KEPT_S)
    again = asyncio.create_task(line.post(b"/jobs", b"{}"))
    await asyncio.sleep(0)
    assert not line.fit(KEPT_S)
    line.data_received(b"HTTP/1.1 422 No\r\ncontent-length: 2\r\n\r\nno")
    assert (await again, await body(line)) == (422, b"no")


async def test_what_came_before_the_loss_is_read_first() -> None:
    """A runner that dies leaves what it said; then reading fails, and the connection takes nothing more."""
    line, wire, asking = await asked()
    line.data_received(HEAD + chunk(b"one\n"))
    wire.close()
    assert (await asking, await line.readany()) == (200, b"one\n")
    with pytest.raises(ConnectionResetError):
        await line.readany()
    assert not line.fit(KEPT_S)


@pytest.mark.parametrize("answer", [b"", HEAD])
async def test_silence_ends_a_wait(answer: bytes) -> None:
    """Before the head as after it: a runner that says nothing for the limit is lost."""
    line, wire, asking = await asked(silence_s=0.01)
    if answer:
        line.data_received(answer)
        assert await asking == 200
    async with asyncio.timeout(5):
        with pytest.raises(TimeoutError, match="nothing for"):
            await (line.readany() if answer else asking)
    assert wire.closed


async def test_silence_is_not_what_nobody_waits_for() -> None:
    """A reader that is late does not lose what lies in the socket meanwhile."""
    line, wire, asking = await asked()
    line.data_received(HEAD)
    assert await asking == 200
    line._waits_since -= 100
    line._look()  # what the timer does; nobody waits
    assert not wire.closed
    reading = asyncio.create_task(line.readany())
    await asyncio.sleep(0)
    line._look()  # somebody waits, but only since now
    assert not wire.closed
    line.data_received(chunk(b"first"))
    assert await reading == b"first"
    line.data_received(chunk(b"late") + LAST)
    assert await body(line) == b"late"


async def test_more_than_a_reader_takes_is_left_in_the_socket() -> None:
    """Reading pauses over the limit and goes on when the reader has come."""
    line, wire, asking = await asked()
    line.data_received(HEAD + chunk(bytes(UNREAD_BYTES)))
    assert wire.reads
    line.data_received(chunk(b"more"))
    assert not wire.reads
    assert await asking == 200
    for _ in range(2):
        assert len(await line.readany()) == UNREAD_BYTES + 4
        assert wire.reads
        line.data_received(chunk(bytes(UNREAD_BYTES)))
        line.data_received(chunk(b"more"))
        assert not wire.reads


@pytest.mark.parametrize(
    "stream", [b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", HEAD]
)
async def test_a_connection_that_cannot_go_on_takes_no_other_request(stream: bytes) -> None:
    """No HTTP, a runner that closes, an answer that was not read to its end: it is not used again."""
    line, _, asking = await asked()
    line.data_received(stream)
    result: Any = (await asyncio.gather(asking, return_exceptions=True))[0]
    assert result == 200 or isinstance(result, OSError)
    assert not line.fit(KEPT_S)


async def test_a_connection_is_not_used_when_its_runner_may_have_closed_it() -> None:
    """One that was unused for longer than is allowed is not fit."""
    line, _, asking = await asked()
    line.data_received(HEAD + LAST)
    await asking
    assert line.fit(KEPT_S)
    assert not line.fit(-1)


@pytest.mark.parametrize("answered", [False, True])
async def test_a_head_has_an_end(answered: bool) -> None:
    """Bytes that are no body are bounded, whether they stand before one or between two of its chunks."""
    line, wire, asking = await asked()
    if answered:
        line.data_received(HEAD)
        assert await asking == 200
    line.data_received(b"1;" if answered else b"HTTP/1.1 200 OK\r\nx: ")
    for _ in range(HEAD_BYTES // 1024):
        line.data_received(b"y" * 1024)
    assert wire.closed
    with pytest.raises(HeadError):
        await (line.readany() if answered else asking)


@pytest.mark.parametrize("answered", [False, True])
async def test_a_drip_is_silence(answered: bool) -> None:
    """An answer's beginning has the limit in all, and so has each wait for more of its body."""
    line, wire, asking = await asked(silence_s=0.05)
    waiting: asyncio.Task[Any] = asking
    if answered:
        line.data_received(HEAD)
        assert await asking == 200
        waiting = asyncio.create_task(line.readany())
    drip = b"1;" if answered else b"HTTP/1.1 200 OK\r\nx: "
    async with asyncio.timeout(5):
        while not waiting.done():
            if not wire.closed:
                line.data_received(drip)
            drip = b"y"
            await asyncio.sleep(0.001)
    assert isinstance(waiting.exception(), TimeoutError)


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    """It would be taken for the answer to the next request."""
    line, wire, asking = await asked()
    line.data_received((b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") * 2)
    await asyncio.gather(asking, return_exceptions=True)
    assert wire.closed
    assert not line.fit(KEPT_S)


async def test_an_answer_that_nobody_has_read_is_in_no_later_one() -> None:
    """Whoever asked was canceled when the whole answer had come: the connection takes no other request."""
    line, _, asking = await asked()
    line.data_received(HEAD + chunk(b"of the first job\n") + LAST)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not line.fit(KEPT_S)
    assert await body(line) == b"of the first job\n"
    assert line.fit(KEPT_S)
