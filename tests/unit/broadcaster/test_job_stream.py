"""A job's events: who asks for them, when they begin, and what waits for a client."""

from __future__ import annotations

import asyncio
import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from broadcaster.job_stream import BACKLOG, JobStreamResponse, News, wants_events
from reelnet.errors import BusyError, DeadlineError, NodeError, ReelnetError, RefusedError, UnsupportedError
from reelnet.jobs import Accepted, Event, Preview, Progress
from tests.fakes.pool import sse_events
from tests.fakes.virtual_time import in_virtual_time


async def _read(news: News) -> list[tuple[str, int]]:
    """What is read until the end, by name and step."""
    texts = []
    async with asyncio.timeout(5):
        while (text := await news.next()) is not None:
            texts.append(text)
    return [(name, data["step"]) for name, data in sse_events(b"".join(texts).decode())]


async def test_a_preview_is_an_event_with_its_bytes_as_text() -> None:
    """A page shows it as it is."""
    news = News()
    news.hear(Preview(b"\xff\xd8\xff", 1, 3, 9))
    text = await news.next()
    assert text is not None
    ((name, data),) = sse_events(text.decode())
    assert name == "preview"
    assert base64.b64decode(data.pop("data")) == b"\xff\xd8\xff"
    assert data == {"index": 1, "step": 3, "total": 9, "media_type": "image/jpeg"}


async def test_a_slow_client_loses_previews_first() -> None:
    """However many come, one waits, behind all progress: it takes nothing's place."""
    news = News()
    for step in range(1, BACKLOG + 3):
        news.hear(Preview(b"jpeg", 0, step, 999))
        news.hear(Progress("denoise", step, 999))
    read = [await news.next() for _ in range(BACKLOG + 1)]
    events = [(name, data["step"]) for name, data in sse_events(b"".join(filter(None, read)).decode())]
    assert events[:-1] == [("progress", step) for step in range(1, BACKLOG + 1)]
    assert events[-1] == ("preview", BACKLOG + 2)


async def test_the_end_is_not_kept_waiting_by_a_preview() -> None:
    """The result follows at once, behind the progress that was made."""
    news = News()
    news.hear(Preview(b"jpeg", 0, 1, 9))
    news.hear(Progress("denoise", 2, 9))
    news.end()
    assert await _read(news) == [("progress", 2)]


@in_virtual_time
async def test_a_client_that_waits_is_told_at_once() -> None:
    """Of whatever comes first, and of the end."""
    news = News()
    told: list[bytes | None] = []
    for happens in (lambda: news.hear(Preview(b"jpeg", 0, 1, 9)), news.end):
        waiting = asyncio.create_task(news.next())
        await asyncio.sleep(0)  # it waits now
        happens()
        told.append(await waiting)
    (event,) = sse_events((told[0] or b"").decode())
    assert (event[0], event[1]["step"], told[1]) == ("preview", 1, None)


@pytest.mark.parametrize(
    ("accept", "stream"),
    [
        ("text/event-stream", True),
        ("TEXT/Event-Stream", True),
        ("text/event-stream; charset=utf-8", True),
        ("text/event-stream, */*", True),
        ("*/*, text/event-stream", True),
        ("text/event-stream;q=0.9, application/json;q=0.9", True),
        ("text/event-stream, application/json;q=0.1", True),
        ("application/json;q=0.1,text/event-stream ; q=0.2", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=0.000, */*", False),
        ("application/json, text/event-stream;q=0.5", False),
        ("text/event-stream;q=0.5, */*", False),
        ("text/event-stream;q=0.5, application/*", False),
        ("text/*", False),
        ("*/*", False),
        ("application/json", False),
        ("application/text-event-stream", False),
        ("x-text/event-stream", False),
        ("", False),
    ],
)
def test_a_stream_is_what_is_wanted_most(accept: str, stream: bool) -> None:
    """By its name, in any case, and by the weights; a client that takes anything gets one answer."""
    assert wants_events(accept) is stream


class Scripted:
    """A gateway whose job hears these events, and ends as it is told; `stays`: it goes on for ever."""

    def __init__(self, *events: Event, error: ReelnetError | None = None, stays: bool = False) -> None:
        self._events, self._error, self._stays = events, error, stays
        self.canceled = False

    async def run(self, job: Any, listener: Any) -> str:
        for event in self._events:
            listener(event)
        try:
            await (asyncio.Event().wait() if self._stays else asyncio.sleep(0))
        except asyncio.CancelledError:
            self.canceled = True
            raise
        if self._error:
            raise self._error
        return "done"


async def streamed(gateway: Scripted, leaves_at: int | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a stream whose client leaves after so many messages, or stays."""
    sent: list[Message] = []
    left = asyncio.Event()
    if leaves_at == 0:
        left.set()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if leaves_at is not None and len(sent) >= leaves_at:
            left.set()

    job: Any = SimpleNamespace(id="job-7")
    parts: Any = gateway
    response = JobStreamResponse(parts, job, lambda done: {"images": [], "done": done})
    async with asyncio.timeout(20):
        await response({"type": "http", "method": "POST", "headers": []}, receive, send)
    if not sent:
        return 0, {}, b""
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BusyError("full", code="full", retry_after_s=3), 503),
        (BusyError("yours are enough", http_status=429), 429),
        (RefusedError("no"), 403),
        (NodeError("broken"), 500),
        (DeadlineError("late"), 504),
        (UnsupportedError("not here"), 422),
    ],
)
async def test_a_refusal_has_its_status(error: ReelnetError, status: int) -> None:
    """As the plain answer has it, with the time to ask again and the job's id: no stream, and no event."""
    got, headers, body = await streamed(Scripted(error=error))
    assert (got, headers["content-type"]) == (status, "application/json")
    said = json.loads(body)["error"]
    assert (said["code"], said["job_id"]) == (error.code, "job-7")
    assert headers.get("retry-after") == ("3" if error.retry_after_s else None)


async def test_what_fails_later_is_an_event() -> None:
    """A node has taken the job: the stream has begun, and its last event says what went wrong with which job."""
    status, headers, body = await streamed(Scripted(Accepted(0, 0.0, 0), error=NodeError("broken")))
    events = sse_events(body.decode())
    assert (status, headers["content-type"], headers["cache-control"]) == (
        200,
        "text/event-stream; charset=utf-8",
        "no-store",
    )
    assert "content-length" not in headers
    assert [name for name, _ in events] == ["job", "queued", "error"]
    assert events[0][1] == {"id": "job-7"}
    assert (events[-1][1]["error"]["code"], events[-1][1]["error"]["job_id"]) == ("node_failed", "job-7")


async def test_a_job_that_goes_well_ends_in_its_result() -> None:
    """Also one that is done before anything was heard of it."""
    for heard in ((), (Accepted(0, 0.0, 0),)):
        status, _, body = await streamed(Scripted(*heard))
        assert (status, sse_events(body.decode())[-1]) == (200, ("result", {"images": [], "done": "done"}))


@pytest.mark.parametrize("heard", [(), (Accepted(0, 0.0, 0),)])
async def test_a_client_that_leaves_cancels_its_job(heard: tuple[Event, ...]) -> None:
    """Before a node has taken it, and after."""
    gateway = Scripted(*heard, stays=True)
    await streamed(gateway, leaves_at=len(heard) and 2)
    assert gateway.canceled
