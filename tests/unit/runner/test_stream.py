"""A job's answer, and clients that go or stall."""

from __future__ import annotations

import asyncio
from typing import Any

from reelnet.errors import CanceledError
from reelnet.pipelines import PIPELINES
from runner.activity import Activity
from runner.backend import RunnerJob
from runner.events import Started
from runner.stream import JobStream


def _activity() -> Activity:
    params = PIPELINES["text-to-image"].parse({"prompt": "a fox", "seed": 1})
    return Activity(RunnerJob("j", 1, "text-to-image", params), asyncio.get_running_loop())


async def _never() -> Any:
    await asyncio.Event().wait()


async def test_a_client_that_stops_reading_loses_its_job() -> None:
    """A stalled reader holds neither the device nor the outputs for ever."""
    activity = _activity()
    activity.emit(Started())

    async def stall(message: Any) -> None:
        if message["type"] == "http.response.body":
            await _never()

    await JobStream(activity, tick_s=5, send_timeout_s=0.01)({"type": "http"}, _never, stall)
    assert isinstance(activity.error, CanceledError)


async def test_a_disconnect_ends_the_answer_at_once() -> None:
    """With nothing to send and no tick due, the response ends and the job is told to stop."""
    activity = _activity()
    sent: list[Any] = []

    async def leave() -> Any:
        return {"type": "http.disconnect"}

    async def keep(message: Any) -> None:
        sent.append(message)

    async with asyncio.timeout(2):
        await JobStream(activity, tick_s=60, send_timeout_s=60)({"type": "http"}, leave, keep)
    assert activity.canceled.is_set()
    assert not [message for message in sent if message.get("body")]
