"""What stands between a job and the device's memory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from reelnet.errors import OutOfMemoryError
from reelnet.pipelines import PIPELINES
from runner.backend import RunnerJob
from runner.memory_budget import GIB, Need, Phase, Profile
from runner.settings import RunnerSettings

pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers
JOB = RunnerJob("j", 1, "text-to-image", PIPELINES["text-to-image"].parse({"prompt": "a fox", "seed": 1}))


@dataclass
class Card:
    """A device whose numbers are made up."""

    free: int | None = 10 * GIB
    held: int | None = GIB
    taken: int | None = None
    begun: int = 0

    def free_bytes(self) -> int | None:
        return self.free

    def held_bytes(self) -> int | None:
        return self.held

    def begin(self) -> None:
        self.begun += 1

    def taken_bytes(self) -> int | None:
        return self.taken


@dataclass
class Fixed:
    """An estimate that is the same for all jobs."""

    size: int = 4 * GIB
    flexible: bool = False
    profile: Profile = field(default_factory=lambda: Profile({}, {}))

    def need(self, _: RunnerJob) -> Need:
        return Need(self.size, Phase("denoise", "denoise", flexible=self.flexible))


def guard(card: Card, estimate: Fixed | None = None, **settings: Any) -> Any:
    """A guard over a made-up card."""
    from runner.models.guard import MemoryGuard

    values = RunnerSettings(model="m", **{"memory_reserve_bytes": 0} | settings)
    return MemoryGuard(cast(Any, estimate or Fixed()), card, values)


def runs(watched: Any) -> bool:
    """Whether a job gets to the device."""
    with contextlib.suppress(OutOfMemoryError), watched.watching(JOB):
        return True
    return False


@pytest.mark.parametrize(
    ("card", "settings", "fits"),
    [
        (Card(free=4 * GIB), {}, True),
        (Card(free=4 * GIB - 1), {}, False),
        (Card(free=4 * GIB), {"memory_reserve_bytes": 1}, False),
        (Card(), {"memory_bytes": 5 * GIB}, True),
        (Card(), {"memory_bytes": 5 * GIB - 1}, False),
        (Card(free=None), {}, True),
    ],
)
def test_a_job_that_does_not_fit_never_reaches_the_device(card: Card, settings: dict[str, Any], fits: bool) -> None:
    """Free memory, the operator's limit and the reserve each refuse; what nobody knows refuses nothing."""
    watched = guard(card, **settings)
    with contextlib.nullcontext() if fits else pytest.raises(OutOfMemoryError, match="ask for"), watched.watching(JOB):
        assert fits
    assert card.begun == fits


def test_on_a_cpu_the_weights_are_what_is_held() -> None:
    """Nobody counts the tensors there."""
    from runner.memory_budget import Weights

    estimate = Fixed(profile=Profile({"unet": Weights(2 * GIB)}, {}))
    assert runs(guard(Card(held=None), estimate, memory_bytes=6 * GIB))
    assert not runs(guard(Card(held=None), estimate, memory_bytes=6 * GIB - 1))


def test_what_was_measured_corrects_the_next_estimate() -> None:
    """A job that took a quarter more than thought is followed by jobs that are thought to take that."""
    card = Card(free=5 * GIB - 1, taken=5 * GIB)
    watched = guard(card)
    assert runs(watched)
    assert not runs(watched)
    card.free = 5 * GIB
    assert runs(watched)


def test_a_job_that_ran_out_all_the_same_is_refused_the_next_time() -> None:
    """Then it needs more than what was free."""
    card = Card(free=5 * GIB)
    watched = guard(card)
    with pytest.raises(OutOfMemoryError), watched.watching(JOB):
        raise OutOfMemoryError("full")
    card.free = 5 * GIB - 1
    assert not runs(watched)


def test_a_job_that_makes_do_with_less_teaches_nothing() -> None:
    """What it took is no measure of what it would have needed."""
    watched = guard(Card(free=5 * GIB, taken=9 * GIB), Fixed(flexible=True))
    assert runs(watched)
    assert runs(watched)


def test_a_refusal_for_a_correction_alone_is_not_for_ever() -> None:
    """After some of them a job is tried again."""
    card = Card(free=4 * GIB, taken=5 * GIB)
    watched = guard(card)
    assert runs(watched)
    card.free = round(4.3 * GIB)
    assert not runs(watched)
    assert any(runs(watched) for _ in range(30))


def test_without_an_estimate_every_job_passes() -> None:
    """A model that cannot be traced is served as before."""
    from runner.models.guard import MemoryGuard

    assert runs(MemoryGuard(None, Card(free=0), RunnerSettings(model="m")))
