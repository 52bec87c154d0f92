"""When a silent job is hung: never a long one, and soon enough one that has stopped."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stalls import KEPT_MEDIANS, KEPT_SHAPES, KEPT_TICKS, JobKind, JobTicks, StallLimits, Stalls

LIMITS = StallLimits(floor_s=30, factor=10, load_s=900)
KIND = JobKind("cuda:0", "acme/sdxl", "text-to-image", (1024, 1024), 1024 * 1024)
PAIR = replace(KIND, shape="pair", pixels=2 * KIND.pixels, outputs=2)


class Life:
    """A runner's process."""


class Job:
    """A job that ticks in virtual time."""

    def __init__(self, stalls: Stalls, life: object, kind: JobKind = KIND) -> None:
        self.now = 1000.0
        self.ticks: JobTicks = stalls.watch(life, kind, self.now)

    def tick(self, stage: str, step: int, total: int, after_s: float) -> Job:
        """The next tick."""
        self.now += after_s
        self.ticks.tick(stage, step, total, self.now)
        return self

    @property
    def limit_s(self) -> float:
        """The silence that is allowed now."""
        return self.ticks.limit_s(LIMITS)

    def run(self, step_s: float, steps: int = 10, decode_s: float = 1.0) -> Job:
        """A whole job that goes well."""
        for step in range(1, steps + 1):
            self.tick("denoise", step, steps, step_s)
        self.tick("decode", 1, 1, decode_s)
        self.tick("encode", 1, 1, 0.1)
        self.ticks.done()
        return self


def test_the_first_tick_of_a_shape_may_take_as_long_as_a_load() -> None:
    """Compiling is loading; on a runner that has done the shape, nothing is compiled."""
    stalls, life = Stalls(), Life()
    assert Job(stalls, life).limit_s == 900
    Job(stalls, life).run(step_s=0.3)
    assert Job(stalls, life).limit_s == 30
    assert Job(stalls, life, replace(KIND, shape=(1024, 768))).limit_s == 900, "another shape"
    assert Job(stalls, life, replace(KIND, pipeline="image-to-image")).limit_s == 900, "another pipeline"
    assert Job(stalls, Life()).limit_s == 900, "another life of the runner"


def test_the_floor_holds_for_quick_stages() -> None:
    """Ten times a tenth of a second is no hang."""
    job = Job(Stalls(), Life()).tick("denoise", 1, 30, 0.1)
    assert job.limit_s == 30
    assert job.tick("denoise", 2, 30, 0.1).limit_s == 30


def test_a_slow_stage_gets_ten_of_its_ticks() -> None:
    """A step of 80 s is no hang, and neither is one of 700 s after it."""
    job = Job(Stalls(), Life())
    for step in range(1, 6):
        job.tick("denoise", step, 25, 80.0)
    assert job.limit_s == 800


def test_one_slow_tick_moves_no_median() -> None:
    """A median, and no mean: another program's burst on the card does not blind the watch."""
    stalls, life = Stalls(), Life()
    Job(stalls, life).run(step_s=5.0)
    job = Job(stalls, life).tick("denoise", 1, 10, 5.0).tick("denoise", 2, 10, 500.0)
    assert job.limit_s == 50


def test_a_compilation_in_the_first_tick_is_no_measure() -> None:
    """Until there is a better one the first tick is all that is known, and at most a load's time is allowed."""
    stalls, life = Stalls(), Life()
    job = Job(stalls, life).tick("denoise", 1, 10, 60.0)
    assert job.limit_s == 600
    assert Job(stalls, life).tick("denoise", 1, 10, 300.0).limit_s == 900
    assert job.tick("denoise", 2, 10, 0.2).limit_s == 30


def test_a_hang_in_the_midst_of_a_first_job_is_found_soon() -> None:
    """Only where something may be compiled the load's limit holds: before the first tick and between stages."""
    job = Job(Stalls(), Life()).tick("denoise", 1, 3, 40.0).tick("denoise", 2, 3, 0.5)
    assert job.limit_s == 30
    assert job.tick("denoise", 3, 3, 0.5).limit_s == 900, "the decoder may be compiled now"
    assert job.tick("decode", 1, 4, 50.0).limit_s == 500
    assert job.tick("decode", 2, 4, 2.0).limit_s == 30


def test_between_stages_the_slowest_may_be_next() -> None:
    """A decoder that takes 20 s is waited for after steps of 1 s."""
    stalls, life = Stalls(), Life()
    for _ in range(3):
        Job(stalls, life).run(step_s=1.0, decode_s=20.0)
    job = Job(stalls, life).tick("denoise", 1, 2, 1.0)
    assert job.limit_s == 30
    assert job.tick("denoise", 2, 2, 1.0).limit_s == 200


def test_a_stage_that_ticks_once_a_job_is_known_from_the_first() -> None:
    """Its first tick counts, as there is no other."""
    stalls, life = Stalls(), Life()
    Job(stalls, life).run(step_s=1.0, decode_s=45.0)
    assert Job(stalls, life).limit_s == 450


def test_an_encoder_at_work_hides_no_slow_step() -> None:
    """Frames of the first output are encoded while the second one is denoised: the step is waited for."""
    stalls, life = Stalls(), Life()
    job = Job(stalls, life, PAIR).tick("denoise", 1, 4, 60).tick("denoise", 2, 4, 60).tick("decode", 1, 2, 1)
    job.tick("encode", 1, 20, 0.1)
    assert job.tick("encode", 2, 20, 0.1).limit_s == 600


def test_each_output_may_compile_its_decoder() -> None:
    """Totals are of all outputs: the first one's steps end in the middle of them."""
    job = Job(Stalls(), Life(), PAIR).tick("denoise", 1, 4, 1.0)
    assert job.limit_s == 30
    assert job.tick("denoise", 2, 4, 1.0).limit_s == 900


def test_steps_that_are_told_together_share_their_time() -> None:
    """Of a stage's steps in one moment only the last is told."""
    stalls, life = Stalls(), Life()
    job = Job(stalls, life).tick("denoise", 2, 20, 8.0).tick("denoise", 12, 20, 80.0)
    assert stalls.median_s(KIND, "denoise") == 8.0
    assert job.limit_s == 80


def test_like_jobs_share_a_median() -> None:
    """Within a factor of two in pixels; not another device, model, pipeline or size."""
    stalls = Stalls()
    Job(stalls, Life()).run(step_s=9.0)
    assert stalls.median_s(replace(KIND, pixels=int(KIND.pixels * 1.5)), "denoise") == 9.0
    for other in ({"device": "cuda:1"}, {"model": "b"}, {"pipeline": "p"}, {"pixels": KIND.pixels // 4}):
        assert stalls.median_s(replace(KIND, **other), "denoise") is None
    assert stalls.median_s(PAIR, "denoise") == 9.0, "each image is made by itself"


def test_a_job_that_failed_has_warmed_nothing() -> None:
    """It may have failed before anything was compiled."""
    stalls, life = Stalls(), Life()
    Job(stalls, life).tick("denoise", 1, 2, 1.0).tick("denoise", 2, 2, 1.0)
    assert Job(stalls, life).limit_s == 900


def test_memory_is_bounded() -> None:
    """Whatever shapes, sizes and stages come; and a runner's shapes go with it."""
    stalls, life = Stalls(), Life()
    for n in range(2 * KEPT_MEDIANS):
        job = Job(stalls, life, replace(KIND, model=f"m{n}", shape=n))
        for step in range(1, 2 * KEPT_TICKS):
            job.tick("denoise" + "e" * 1000, step, 10**6, 1.0)
        job.ticks.done()
    assert len(stalls._ticks) == KEPT_MEDIANS
    assert all(len(ticks) == KEPT_TICKS for ticks in stalls._ticks.values())
    assert len(stalls._warm[life]) == KEPT_SHAPES
    gone = weakref.ref(life)
    del life, job
    gc.collect()
    assert gone() is None
    assert not stalls._warm


@pytest.mark.parametrize(("step", "total"), [(0, 0), (5, 3), (-1, 10), (3, 3)])
def test_what_a_runner_says_breaks_nothing(step: int, total: int) -> None:
    """Odd numbers give some limit, at least the floor."""
    job = Job(Stalls(), Life()).tick("denoise", step, total, 1.0).tick("denoise", step, total, -5.0)
    assert job.limit_s >= 30


@given(
    step_s=st.floats(0, 600), spread=st.floats(1, 9.9), steps=st.integers(2, 40), jobs=st.integers(1, 4),
    decode_s=st.floats(0, 600), cold_s=st.floats(0, 899),
)  # fmt: skip
def test_a_job_that_goes_on_is_never_hung(
    step_s: float, spread: float, steps: int, jobs: int, decode_s: float, cold_s: float
) -> None:
    """Steps up to ten times as slow as the others, a slow decoder, a compilation within a load's time: none is one."""
    stalls, life = Stalls(), Life()
    for number in range(jobs):
        job = Job(stalls, life)
        for step in range(1, steps + 1):
            first_s = min(LIMITS.load_s, cold_s + step_s)
            took_s = first_s if step == 1 and number == 0 else step_s * (spread if step % 5 == 4 else 1)
            assert took_s <= job.limit_s
            job.tick("denoise", step, steps, took_s)
        assert decode_s <= job.limit_s
        job.tick("decode", 1, 1, decode_s)
        job.ticks.done()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(0, 9), st.floats(0, 99)), max_size=30))
def test_a_job_that_stops_is_always_found(ticks: list[tuple[str, int, int, float]]) -> None:
    """Whatever it did before: within a load's time, or ten times its slowest tick."""
    job = Job(Stalls(), Life())
    for stage, step, total, after_s in ticks:
        job.tick(stage, step, total, after_s)
    slowest_s = max([after_s for *_, after_s in ticks], default=0.0)
    assert LIMITS.floor_s <= job.limit_s <= max(LIMITS.load_s, LIMITS.factor * slowest_s)
