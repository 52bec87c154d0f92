"""One job in the broadcaster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broadcaster import job as module
from broadcaster.job import JobInput, JobProgress, JobRequest, new_job_id
from reelnet.inspection import PictureFacts
from reelnet.jobs import IllegalTransitionError, InputRef, JobId, JobState
from reelnet.pipelines import PIPELINES, MediaSpec, Work
from reelnet.warnings import NO_PREVIEW, NOT_USED, JobWarning

NOW_MS = 1_800_000_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Time that stands until it is moved: the last entry is now."""
    times = [NOW_MS]
    monkeypatch.setattr(module, "now_ms", lambda: times[-1])
    return times


def request(pipeline: str = "text-to-image", *inputs: JobInput, **params: object) -> JobRequest:
    """A small job of that pipeline with a minute of time."""
    words = {} if pipeline == "image-to-video" else {"prompt": "x"}
    parsed = PIPELINES[pipeline].parse({"seed": 1, **words, **params})
    return JobRequest(JobId("j"), PIPELINES[pipeline], "m", parsed, inputs, NOW_MS + 60_000, None)


def picture(width: int, height: int) -> JobInput:
    """An input of that size."""
    facts = PictureFacts(**{**dict.fromkeys(PictureFacts.__dataclass_fields__), "width": width, "height": height})  # type: ignore[arg-type]
    return JobInput(InputRef("image", 3, "a" * 64, "image/png"), b"png", facts)


def test_work_and_promises_are_the_pipelines() -> None:
    """Where the output's size is the input's, the picture that was sent decides."""
    small = request(width=64, height=128, num_inference_steps=3)
    assert small.work == Work(64 * 128 * 3, 64 * 128)
    upscaled = request("upscale", picture(100, 50), num_inference_steps=2)
    assert upscaled.work == Work(100 * 50 * 2, 400 * 200)
    assert upscaled.promises == (MediaSpec("image", 400, 200, media_type="image/png"),)


@pytest.mark.parametrize(("passed_ms", "left_s"), [(0, 60), (59_999, 0.001), (60_000, 0), (10**9, 0)])
def test_time_is_left_or_not(clock: list[int], passed_ms: int, left_s: float) -> None:
    """Never less than nothing."""
    job = request()
    clock.append(NOW_MS + passed_ms)
    assert job.left_s() == left_s


def test_an_unused_parameter_is_missed_by_who_named_it() -> None:
    """A model says what it does not use of all parameters; the request had named some. Others' codes are dropped."""
    unused = [JobWarning(NOT_USED, "no", "seed"), JobWarning(NOT_USED, "no", "prompt")]
    job = replace(request("upscale", picture(64, 64)), given=frozenset({"prompt"}))
    assert job.warned([*unused, JobWarning(NO_PREVIEW, "no", "prompt")]) == (unused[1],)


def test_a_node_can_lack_only_what_a_job_asks_for() -> None:
    """A parameter that has its default asks for nothing; LoRAs and a checker are advertised."""
    job = request(scheduler="euler", loras={"acme/ink": 1.0}, safety="flag", guidance_scale=7.5)
    assert job.unadvertised == {"prompt", "seed", "scheduler"}


def test_a_job_moves_by_the_table() -> None:
    """Staying where it is is no step; what the table does not allow is refused and changes nothing."""
    job = JobProgress(request())
    job.to(JobState.QUEUED)
    job.to(JobState.ASSIGNED)
    with pytest.raises(IllegalTransitionError):
        job.to(JobState.SUCCEEDED)
    assert job.state is JobState.ASSIGNED
    job.to(JobState.FAILED)
    for state in JobState:
        if state is not JobState.FAILED:
            with pytest.raises(IllegalTransitionError):
                job.to(state)


def test_attempts_are_counted(clock: list[int]) -> None:
    """Each with its node and its time; the job keeps its own."""
    job = JobProgress(request())
    assert (job.attempts, job.created_ms) == (0, NOW_MS)
    clock.append(NOW_MS + 500)
    job.begin_attempt("a")
    clock.append(NOW_MS + 900)
    job.begin_attempt("b")
    assert (job.attempts, job.node_id, job.attempt_started_ms, job.created_ms) == (2, "b", NOW_MS + 900, NOW_MS)


def test_ids_sort_by_time_and_cannot_be_guessed(clock: list[int]) -> None:
    """Milliseconds first, then 96 bits of chance."""
    first = [new_job_id() for _ in range(100)]
    clock.append(NOW_MS + 1)
    later = [new_job_id() for _ in range(100)]
    assert max(first) < min(later)
    assert len({*first, *later}) == 200
    assert all(len(name) == 11 + 24 and int(name[:11], 16) == NOW_MS for name in first)
