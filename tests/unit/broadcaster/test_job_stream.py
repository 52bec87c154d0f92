"""What of a job's events waits for a client."""

from __future__ import annotations

import asyncio
import base64

from broadcaster.job_stream import BACKLOG, News
from reelnet.jobs import Preview, Progress
from tests.fakes.pool import sse_events


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
