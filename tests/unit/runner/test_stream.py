"""A job's answer, and clients that go or stall."""

from __future__ import annotations

import asyncio
from typing import Any

from reelnet.errors import CanceledError, FailureClass
from reelnet.pipelines import PIPELINES
from runner.activity import Activity
from runner.backend import RunnerJob
from runner.events import Failed, Started
from runner.stream import JobStream


def _activity() -> Activity:
    params = PIPELINES["text-to-image"].parse({"prompt": "a fox", "seed": 1})
    return Activity(RunnerJob("j", 1, "text-to-image", params), asyncio.get_running_loop())


async def _never() -> Any:
    await asyncio.Event().wait()


async def test_a_client_that_stops_reading_loses_its_job() -> None:
    """A stalled reader holds neither the device nor the outputs for ever."""
    activity = _activity()
    activity.emit(Started(1, 1))

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


async def test_a_job_that_is_over_at_once_is_told_whole() -> None:
    """Head and one piece; nobody has to watch its client, and it is not told to stop."""
    activity = _activity()
    sent: list[Any] = []

    async def unasked() -> Any:
        raise AssertionError("the client was watched")

    async def keep(message: Any) -> None:
        sent.append(message)

    loop = asyncio.get_running_loop()
    loop.call_soon(activity.emit, Started(1, 1))
    loop.call_soon(activity.emit, Failed(FailureClass.NODE, "failed", "it failed"))
    async with asyncio.timeout(2):
        await JobStream(activity, tick_s=60, send_timeout_s=60)({"type": "http"}, unasked, keep)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[1]["body"].count(b"\n") == 2
    assert not sent[1]["more_body"]
    assert not activity.canceled.is_set()
