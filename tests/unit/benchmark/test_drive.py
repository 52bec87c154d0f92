"""Scheduling and comparison together, on a clock that only the lanes move."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark.assessment import Assessment, assess
from benchmark.drive import Drive, record
from benchmark.machine import Machine
from benchmark.measurement import Measurement
from benchmark.scenario import WARMUP_SEEDS, Request, Scenario, plan
from reelnet.pipelines import PIPELINES, Size
from tests.fakes.lanes import SimulatedClock, SimulatedLane

MACHINE = Machine("a CPU", 2, 2**30, "Linux x86_64", "3.11", 0.0)
NOISE = 0.08
"""Sigma of a job's lognormal time, independent for each job and node; the machine drifts beside it."""
DRIFT = 0.01
"""Everything takes twice as long after 100 s: more than a whole run's noise."""


def scenario(**options: Any) -> Scenario:
    """Pictures that nobody draws."""
    return plan(Request(PIPELINES["text-to-image"], 1, Size(64, 64), **options), "acme/x")


async def measured(lanes: Sequence[SimulatedLane], given: Scenario) -> Assessment:
    """The lanes through the real schedule, figures and comparison."""
    tracks = await Drive(given, Path("/nowhere"), clock=lanes[0].clock).run(lanes)
    recorded = tuple(record(track, given) for track in tracks)
    return assess(Measurement("orchestrator", "nowhere", given, recorded, MACHINE))


def pool(seed: int, *speeds: float, sigma: float = NOISE, drift: float = DRIFT) -> list[SimulatedLane]:
    """Nodes of those speeds; each run of one takes 1 s / speed."""
    clock, rng = SimulatedClock(drift=drift), random.Random(seed)
    return [SimulatedLane(f"n{i}", clock, 1 / speed, sigma, rng) for i, speed in enumerate(speeds)]


def placed(assessed: Assessment) -> dict[str, int | None]:
    """Ranks by name."""
    return {node.figures.name: node.rank for node in assessed.nodes}


async def test_two_equal_nodes_are_called_equal() -> None:
    """In at least 90 of 100 seeded runs of the default length, with noise of 8 % and a machine that slows down."""
    equal = 0
    for seed in range(100):
        ranks = placed(await measured(pool(seed, 1, 1), scenario(seed=seed)))
        equal += set(ranks.values()) == {1}
    assert equal >= 90


async def test_a_node_a_fifth_faster_is_ranked_first() -> None:
    """Alone in the first place, in at least 95 of 100 such runs."""
    first = 0
    for seed in range(100):
        ranks = placed(await measured(pool(seed, 1, 1.2), scenario(seed=seed)))
        first += ranks == {"n0": 2, "n1": 1}
    assert first >= 95


@pytest.mark.parametrize("seed", range(5))
async def test_speeds_1_1_2_4_are_ranked_so(seed: int) -> None:
    """The two slow ones share the third place."""
    assessed = await measured(pool(seed, 1, 1, 2, 4), scenario(seed=seed))
    assert placed(assessed) == {"n3": 1, "n2": 2, "n0": 3, "n1": 3}
    assert [node.figures.name for node in assessed.nodes][:2] == ["n3", "n2"]
    scores = [node.score.total for node in assessed.nodes]
    assert scores[0] > scores[1] > scores[2]


async def test_one_after_the_other_would_rank_by_drift() -> None:
    """The test's machine drifts so much that two equal nodes differ when each is measured by itself."""
    lanes = pool(1, 1, 1, drift=0.05)
    apart = [await measured([lane], scenario()) for lane in lanes]
    first, second = (one.nodes[0].figures.results_per_minute for one in apart)
    assert first.low is not None
    assert second.high is not None
    assert first.low > second.high
    assert set(placed(await measured(pool(1, 1, 1, drift=0.05), scenario())).values()) == {1}


async def test_noise_that_hides_a_difference_is_told() -> None:
    """Five blocks can show nothing, and so do jobs that vary by half."""
    assessed = await measured(pool(1, 1, 1.1, sigma=0.5), scenario(runs=5))
    text = "\n".join(assessed.warnings)
    for part in ("5 blocks cannot tell 2 nodes apart", "noise hides which of n0 and n1", "vary by", "known to ±"):
        assert part in text


async def test_a_block_gives_every_node_the_same_jobs_in_a_drawn_order() -> None:
    """Each node gets each seed once, and none is always first."""
    lanes = pool(0, 1, 1, 1)
    first = []
    clock_order: list[str] = []

    class Told(SimulatedLane):
        async def run(self, order: Any) -> Any:
            clock_order.append(self.name)
            return await super().run(order)

    told = [Told(lane.name, lane.clock, 1.0) for lane in lanes]
    await measured(told, scenario(runs=12, warmup=2, seed=5))
    assert all(lane.asked == [WARMUP_SEEDS + 5, WARMUP_SEEDS + 6, *range(5, 17)] for lane in told)
    first = [clock_order[i] for i in range(0, len(clock_order), 3)]
    assert all(sorted(clock_order[i : i + 3]) == ["n0", "n1", "n2"] for i in range(0, len(clock_order), 3))
    assert set(first) == {"n0", "n1", "n2"}


async def test_warm_up_stands_apart() -> None:
    """It counts in no figure, and the first job is told by itself."""
    (lane,) = pool(0, 1, sigma=0.0, drift=0.0)
    given = scenario(runs=6, warmup=3)
    assessed = await measured([lane], given)
    figures = assessed.nodes[0].figures
    assert (figures.runs, len(figures.warmup_s), figures.first_job_s) == (6, 3, 1.0)
    assert figures.results_per_minute.value == pytest.approx(60.0)
    assert figures.mpix_steps_per_s.value == pytest.approx(64 * 64 / 1e6)


async def test_a_duration_ends_the_runs() -> None:
    """No job begins after it; blocks stay whole."""
    (alone,) = pool(0, 1, sigma=0.0, drift=0.0)
    assert (await measured([alone], scenario(duration_s=7.5, warmup=0))).nodes[0].figures.runs in (8, 9)
    both = pool(0, 1, 1, sigma=0.0, drift=0.0)
    assert [node.figures.runs for node in (await measured(both, scenario(duration_s=7.5))).nodes] == [4, 4]


async def test_a_failed_job_is_a_sample() -> None:
    """It is counted by class and code, takes time, and no block of it is compared."""
    lanes = pool(0, 1, 1)
    lanes[0].fails = frozenset({2, 3})
    assessed = await measured(lanes, scenario(runs=10))
    (broken,) = [node for node in assessed.nodes if node.figures.name == "n0"]
    assert (broken.figures.good, broken.figures.failures) == (8, {"node/fell": 2})
    assert broken.score.success == pytest.approx(0.8)
    assert assessed.pairs[0].blocks == 8
    assert not assessed.good


async def test_jobs_at_a_time_share_a_turn() -> None:
    """Three at a time: four turns for ten jobs, and every job is counted."""
    lanes = pool(0, 1, 2, sigma=0.0, drift=0.0)
    assessed = await measured(lanes, scenario(runs=10, concurrency=3))
    assert [node.figures.runs for node in assessed.nodes] == [10, 10]
    assert assessed.pairs[0].blocks == 4
    assert assessed.pairs[0].turned().ratio == pytest.approx(2.0)
