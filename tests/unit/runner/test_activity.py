"""One job under way."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from reelnet.errors import CanceledError, DeadlineError, FailureClass, NodeError, OutOfMemoryError, UserError
from reelnet.pipelines import PIPELINES
from reelnet.warnings import JobWarning
from runner.activity import Activity, as_failure
from runner.backend import RunnerJob, Sketch
from runner.events import Failed, Preview, Progress, Started, Tick
from tests.fakes.virtual_time import in_virtual_time

PARAMS = PIPELINES["text-to-image"].parse({"prompt": "a fox", "seed": 1})
WORK = PIPELINES["text-to-image"].work(PARAMS)
STARTED = Started(WORK.pixel_steps, WORK.output_pixels)


class Clock:
    """Time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _activity(clock: Clock, deadline_s: float | None = None) -> Activity:
    return Activity(
        RunnerJob("j", 1, "text-to-image", PARAMS, deadline_s=deadline_s), asyncio.get_running_loop(), clock
    )


async def test_steps_are_events_and_times() -> None:
    """Each report is progress, of which each stage's newest is told, and the time before it is its stage's."""
    clock = Clock()
    activity = _activity(clock)
    activity.begin()
    for stage, step, total, seconds in (("denoise", 1, 2, 2.0), ("denoise", 2, 2, 3.0), ("decode", 1, 1, 0.5)):
        clock.now += seconds
        activity.step(stage, step, total)
    assert await activity.next_events() == [
        STARTED,
        Progress("denoise", 2, 2),
        Progress("decode", 1, 1),
    ]
    assert activity.timings_s == {"denoise": 5.0, "decode": 0.5}
    clock.now += 4
    assert activity.idle_s == 4


@in_virtual_time
async def test_events_are_held_for_company_and_not_behind_the_end() -> None:
    """What follows within the hold goes in the same piece; the job's end is told at once."""
    activity = _activity(Clock())
    loop = asyncio.get_running_loop()
    activity.begin()
    loop.call_later(0.01, activity.emit, Tick(0.0))
    assert await activity.next_events(5, hold_s=0.05) == [STARTED, Tick(0.0)]
    end = Failed(FailureClass.NODE, "failed", "it failed")
    activity.emit(Tick(1.0))
    loop.call_later(0.01, activity.emit, end)
    async with asyncio.timeout(5):
        assert await activity.next_events(60, hold_s=60) == [Tick(1.0), end]


@in_virtual_time
async def test_the_first_moment_is_told_at_once_or_at_its_end() -> None:
    """A reader of a job that is over at once is woken by its end alone; of a longer one it hears after the hold."""
    activity = _activity(Clock())
    loop = asyncio.get_running_loop()
    end = Failed(FailureClass.NODE, "failed", "it failed")
    loop.call_soon(activity.begin)
    loop.call_later(0.01, activity.emit, end)
    async with asyncio.timeout(5):
        assert await activity.first_events(60) == [STARTED, end]
    longer = _activity(Clock())
    loop.call_soon(longer.begin)
    assert await longer.first_events(0.01) == [STARTED]
    longer.emit(Tick(1.0))
    async with asyncio.timeout(5):
        assert await longer.next_events(60) == [Tick(1.0)]


async def test_a_warning_counts_once_and_has_to_be_declared() -> None:
    """A code that the pipeline's row does not have is a fault of this program."""
    activity = _activity(Clock())
    warning = JobWarning("prompt_cut", "read up to 'fox'", "prompt")
    activity.warn(warning)
    activity.warn(warning)
    assert activity.warnings == (warning,)
    with pytest.raises(ValueError, match="text-to-image/sd@4 declares no warning 'not_used'"):
        activity.warn(JobWarning("not_used", "no", "seed"))


@in_virtual_time
async def test_silence_gives_no_events() -> None:
    """Its reader looks up after `limit_s`, and hears what comes later."""
    activity = _activity(Clock())
    assert await activity.next_events(0.01) == []
    activity.emit(STARTED)
    assert await activity.next_events(60) == [STARTED]


async def test_a_canceled_job_stops_at_its_next_step() -> None:
    """The first reason is the one that is told."""
    activity = _activity(Clock())
    activity.step("denoise", 1, 3)
    activity.cancel("canceled")
    activity.stop(NodeError("later"))
    assert activity.canceled.is_set()
    with pytest.raises(CanceledError):
        activity.step("denoise", 2, 3)
    assert activity.progress == Progress("denoise", 1, 3)


async def test_a_job_over_its_time_stops_at_its_next_step() -> None:
    """The deadline counts from the permit on."""
    clock = Clock()
    activity = _activity(clock, deadline_s=10)
    clock.now += 9
    activity.step("denoise", 1, 3)
    clock.now += 2
    with pytest.raises(DeadlineError):
        activity.step("denoise", 2, 3)


@in_virtual_time
async def test_the_newest_preview_alone_waits_for_a_reader() -> None:
    """It wakes the reader, and comes behind what happened before."""
    activity = _activity(Clock())
    activity.begin()
    for step in (1, 2, 3):
        activity.show(Preview(b"jpeg", 0, step, 9))
    async with asyncio.timeout(5):
        assert await activity.next_events(60) == [STARTED, Preview(b"jpeg", 0, 3, 9)]
        asyncio.get_running_loop().call_later(0.01, activity.show, Preview(b"jpeg", 0, 4, 9))
        assert await activity.next_events(60) == [Preview(b"jpeg", 0, 4, 9)]
    assert await activity.next_events(0.01) == []


async def test_nothing_follows_the_end() -> None:
    """A preview that waits then is dropped, and so is one that comes too late."""
    activity = _activity(Clock())
    end = Failed(FailureClass.NODE, "failed", "it failed")
    activity.show(Preview(b"jpeg", 0, 1, 9))
    activity.emit(end)
    activity.show(Preview(b"jpeg", 0, 2, 9))
    assert await activity.next_events() == [end]
    assert await activity.next_events(0.01) == []


def test_failures_by_exception() -> None:
    """Ours pass, memory errors are `oom`, strange ones lose their text: it may hold the prompt."""
    user = UserError("no")
    assert as_failure(user) is user
    assert isinstance(as_failure(MemoryError()), OutOfMemoryError)
    strange = as_failure(ValueError("my secret prompt"))
    assert isinstance(strange, NodeError)
    assert strange.code == "ValueError"
    assert "secret" not in strange.message


def _raised_in(module: str, error: Exception) -> Exception:
    """An exception as a function of that module raises it."""
    scope: dict[str, Any] = {"__name__": module, "error": error}
    exec("def check_inputs():\n    raise error", scope)
    try:
        scope["check_inputs"]()
    except Exception as caught:
        return caught
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("error", [ValueError("my secret prompt"), TypeError("x"), IndexError("60"), KeyError("x")])
def test_what_a_library_does_not_take_is_a_claim_against_the_parameters(error: Exception) -> None:
    """It names the place, never the text; another node has to agree before it is the user's error."""
    failure = as_failure(_raised_in("diffusers.pipelines.pipe", error))
    assert (failure.failure, failure.code) == (FailureClass.USER, "rejected")
    assert f"{type(error).__name__} in diffusers.pipelines.pipe.check_inputs" in failure.message
    assert "secret" not in failure.message


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("torch.nn", RuntimeError("CUDA error")),
        ("diffusers.models", RuntimeError("shapes")),
        ("runner.x", ValueError()),
    ],
)
def test_a_devices_failure_and_our_own_are_the_nodes(module: str, error: Exception) -> None:
    """Only an argument's error in a model library is a claim."""
    assert as_failure(_raised_in(module, error)).failure is FailureClass.NODE


async def test_previews_that_were_never_due_are_told() -> None:
    """A job of four steps with a preview every ten has none; one that asks for none is not told of it."""
    loop = asyncio.get_running_loop()
    asked = PIPELINES["text-to-image"].parse({"prompt": "x", "seed": 1, "preview_steps": 10})
    activity = Activity(RunnerJob("j", 1, "text-to-image", asked), loop)
    activity.unseen()
    assert [warning.code for warning in activity.warnings] == ["no_preview"]
    activity = Activity(RunnerJob("j", 1, "text-to-image", asked), loop)
    activity.sketch(Sketch(0, 10, 50, (64, 64), lambda: np.zeros((1, 1, 3), np.uint8)))
    activity.unseen()
    assert activity.warnings == ()
    activity = _activity(Clock())
    activity.unseen()
    assert activity.warnings == ()
