"""Which thread does what of a job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from reelnet.pipelines import PIPELINES, MediaSpec
from runner.backend import Rendered, RunnerJob
from runner.encoding import Encoded, Encoder
from runner.events import TERMINAL, Done, Event, OutputEnd
from runner.metrics import RunnerMetrics
from runner.settings import Synthetic
from runner.synthetic import SyntheticBackend
from runner.worker import State, Worker


@dataclass(frozen=True)
class WatchedEncoder(Encoder):
    """Remembers on which threads it was."""

    threads: list[str] = field(default_factory=list)

    def encode(self, rendered: Rendered, promised: MediaSpec, note: str, ticked: Callable[[int], None]) -> Encoded:
        self.threads.append(threading.current_thread().name)
        return super().encode(rendered, promised, note, ticked)


@pytest.mark.parametrize(("output_bytes", "thread"), [(None, "media"), (1000, "model")])
async def test_the_device_waits_for_no_encoding(output_bytes: int | None, thread: str) -> None:
    """Frames are encoded beside the model's thread; a file that is there already needs no second thread."""
    encoder = WatchedEncoder()
    worker = Worker(SyntheticBackend("synthetic/bars", Synthetic(output_bytes=output_bytes)), encoder, RunnerMetrics())
    worker.start()
    try:
        async with asyncio.timeout(20):
            events = await _run(worker)
    finally:
        assert await worker.stop(20)
    assert encoder.threads == [thread, thread]
    assert [event.index for event in events if isinstance(event, OutputEnd)] == [0, 1]
    assert isinstance(events[-1], Done)


async def _run(worker: Worker) -> list[Event]:
    while worker.status().state is not State.READY:
        await asyncio.sleep(0.005)
    raw = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "num_images_per_prompt": 2}
    activity = worker.submit(RunnerJob("j", 1, "text-to-image", PIPELINES["text-to-image"].parse(raw)))
    events: list[Event] = []
    while not (events and isinstance(events[-1], TERMINAL)):
        events += await activity.next_events()
    return events
