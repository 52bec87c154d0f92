"""What a job needs, and whether it is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelnet.errors import OutOfMemoryError
from runner.memory_budget import (
    GIB,
    LEARNS_FROM_BYTES,
    LEAST_RATIO,
    MOST_RATIO,
    Corrections,
    Need,
    Offload,
    Phase,
    Profile,
    Room,
    Table,
    TracedPart,
    Weights,
    check,
)

STEP = Phase("denoise", "denoise", (100,), smaller="a smaller width or height")
POINTS = (64, 1000, 50_000)


def test_a_table_is_a_line_between_its_points_and_goes_on_beyond_them() -> None:
    """Below the first point its value holds, as nothing is known there."""
    table = Table((10, 20, 40), (100, 300, 400))
    assert [table.at(size) for size in (0, 10, 15, 20, 30, 40, 60)] == [100, 100, 200, 300, 350, 400, 500]


def test_a_constant_takes_any_size_or_none() -> None:
    """An axis of one point has no slope."""
    assert Table.constant(7).at() == Table.constant(7).at(99) == 7


def test_axes_lie_inside_each_other() -> None:
    """Each row of an outer axis is a table over the next one."""
    table = Table((1, 3), (Table((0, 10), (0, 10)), Table((0, 10), (100, 200))))
    assert table.at(1, 5) == 5
    assert table.at(3, 5) == 150
    assert table.at(2, 5) == round((5 + 150) / 2)


@given(
    terms=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 5000)), min_size=1, max_size=6),
    size=st.integers(POINTS[0], POINTS[-1]),
)
def test_between_traced_sizes_a_table_is_never_too_low(terms: list[tuple[int, int]], size: int) -> None:
    """A need is the largest of several sums, each of which grows evenly with the size."""

    def true(at: int) -> int:
        return max(fixed + each * at for fixed, each in terms)

    assert Table(POINTS, tuple(true(point) for point in POINTS)).at(size) >= true(size) - 1


def profile(offload: Offload) -> Profile:
    """A model of two nets."""
    return Profile(
        {"unet": Weights(1000, 10), "vae": Weights(300, 5)},
        {"denoise": TracedPart("unet", Table((0, 1), (0, 2))), "decode": TracedPart("vae", Table((0, 1), (0, 9)))},
        offload,
    )


@pytest.mark.parametrize(
    ("offload", "held", "denoise", "decode"),
    [("none", 1300, 200, 950), ("model", 0, 1200, 1250), ("sequential", 0, 210, 955)],
)
def test_what_is_moved_in_for_a_phase_counts(offload: Offload, held: int, denoise: int, decode: int) -> None:
    """All weights stay, or those of the net at work are moved in, or those of its largest layer."""
    model, last = profile(offload), Phase("decode", "decode", (100,), held_bytes=50)
    assert model.held_bytes == held
    assert [model.phase_bytes(phase) for phase in (STEP, last)] == [denoise, decode]
    assert model.need([STEP, last]) == Need(decode, last)


@pytest.mark.parametrize(
    ("room", "left"),
    [
        (Room(None), None),
        (Room(100), 100),
        (Room(100, reserve_bytes=30), 70),
        (Room(100, reserve_bytes=300), 0),
        (Room(100, held_bytes=50, limit_bytes=80), 30),
        (Room(None, held_bytes=50, limit_bytes=80, reserve_bytes=10), 20),
        (Room(100, held_bytes=500, limit_bytes=80), 0),
    ],
)
def test_room_is_what_is_free_and_given(room: Room, left: int | None) -> None:
    """The smaller of both, without the reserve."""
    assert room.left_bytes == left


def test_a_job_that_does_not_fit_says_by_how_much_and_what_to_ask() -> None:
    """Class oom, code estimate: who reads it can ask for less, and knows that nothing was tried."""
    with pytest.raises(OutOfMemoryError) as refused:
        check(Need(round(5.25 * GIB), STEP), Room(3 * GIB))
    assert refused.value.foreseen
    assert refused.value.message == (
        "the job needs about 5.2 GiB beside the model (to denoise), and 3.0 GiB may be taken here; "
        "ask for a smaller width or height"
    )


@pytest.mark.parametrize("room", [Room(5 * GIB), Room(None)])
def test_a_job_that_fits_or_of_which_nobody_knows_passes(room: Room) -> None:
    """The last byte may be used; nothing is refused for what is not known."""
    check(Need(5 * GIB, STEP), room)


def test_an_error_of_the_allocator_is_not_foreseen() -> None:
    """It says that the device has been at its end."""
    assert not OutOfMemoryError("full").foreseen


def test_estimates_follow_what_was_measured_up_at_once_and_down_slowly() -> None:
    """Each pipeline by itself, within bounds."""
    corrections = Corrections()
    corrections.measured("a", GIB, round(1.2 * GIB))
    assert corrections.ratio("a") == pytest.approx(1.2)
    assert corrections.applied("a", Need(100, STEP)).size_bytes == 120
    assert corrections.ratio("b") == 1.0
    corrections.measured("a", GIB, GIB)
    assert 1.1 < corrections.ratio("a") < 1.2
    corrections.measured("a", GIB, 50 * GIB)
    assert corrections.ratio("a") == MOST_RATIO
    for _ in range(200):
        corrections.measured("a", GIB, 1)
    assert corrections.ratio("a") == pytest.approx(LEAST_RATIO)


def test_small_jobs_teach_nothing() -> None:
    """A library's own memory is most of what they take."""
    corrections = Corrections()
    corrections.measured("a", LEARNS_FROM_BYTES - 1, 10 * GIB)
    assert corrections.ratio("a") == 1.0


def test_a_correction_that_refuses_jobs_fades() -> None:
    """It could be somebody else's memory that ran out; no job would ever show that."""
    corrections = Corrections()
    corrections.measured("a", GIB, 2 * GIB)
    for _ in range(50):
        corrections.refused("a")
    assert corrections.ratio("a") == pytest.approx(1.0, abs=0.01)
