"""From samples to figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.intervals import Turn
from benchmark.measure import Recorded, Sample, by_node, completions, figures, variation
from reelnet.pipelines import Work

WORK = Work(pixel_steps=5_000_000, output_pixels=250_000)


def recorded(*samples: Sample, warmup: tuple[Sample, ...] = ()) -> Recorded:
    """Samples one after the other, with their turns."""
    return Recorded("n", warmup, samples, tuple(Turn(float(s.good), s.total_s) for s in samples))


def test_figures_count_good_runs_and_failures_by_class() -> None:
    """Failed runs have no latency and no price, and they take time."""
    found = figures(
        recorded(
            Sample(0, 2.0, "n", price_nano=100, timings_s={"run": 1.0}),
            Sample(1, 4.0, "n", price_nano=200, timings_s={"run": 3.0}),
            Sample(2, 1.0, failure="busy", code="queue_full"),
            Sample(3, 1.0, failure="busy", code="queue_full"),
            Sample(4, 2.0, "n", price_nano=300, timings_s={"run": 9.0}, failure="check", code="size"),
        ),
        WORK,
        1,
        0,
    )
    assert (found.runs, found.good) == (5, 2)
    assert found.failures == {"busy/queue_full": 2, "check/size": 1}
    assert found.wrong == {"size": 1}
    assert found.results_per_minute.value == pytest.approx(12.0)
    assert found.mpix_steps_per_s.value == pytest.approx(1.0)
    assert found.price_nano is not None
    assert found.price_nano.value == pytest.approx(150.0)
    assert found.stages_s["total"].longest == 4.0
    assert found.stages_s["run"].n == 2


def test_a_finding_makes_a_run_bad() -> None:
    """What no honest node delivers is no result, also where it came in the warm-up."""
    lie = Sample(9, 1.0, "n", findings=("replayed",))
    found = figures(recorded(Sample(0, 1.0, "n"), lie, warmup=(lie,)), WORK, 1, 0)
    assert (found.good, found.wrong, found.failures) == (1, {"replayed": 2}, {})


def test_what_a_broadcaster_found_out_is_a_wrong_output_too() -> None:
    """A job that failed for its output's sake says so in the code; other failures of a node do not."""
    found = figures(
        recorded(Sample(0, 1.0, failure="node", code="frames"), Sample(1, 1.0, failure="node", code="hung")), WORK, 1, 0
    )
    assert found.wrong == {"frames": 1}


def test_a_stage_counts_only_the_runs_that_had_it() -> None:
    """One cold run among warm ones does not make loading look free."""
    samples = [Sample(0, 1.0, timings_s={"load": 8.0, "run": 1.0}), Sample(1, 1.0, timings_s={"run": 1.0})]
    stages = figures(recorded(*samples), WORK, 1, 0).stages_s
    assert (stages["load"].n, stages["load"].longest, stages["run"].n) == (1, 8.0, 2)


def test_stages_stand_in_the_order_of_a_job() -> None:
    """Known stages come as they happen, unknown ones after them by name; a node's own `total` does not count."""
    sample = Sample(0, 1.0, timings_s={"zoom": 1, "encode": 1, "aim": 1, "denoise": 1, "queue": 1, "total": 99.0})
    stages = figures(recorded(sample), WORK, 1, 0).stages_s
    assert list(stages) == ["total", "queue", "denoise", "encode", "aim", "zoom"]
    assert stages["total"].longest == 1.0


def test_several_results_of_a_run_count_each() -> None:
    """Four images a job are four images, each at a quarter of the price and of the work."""
    one = Recorded("n", (), (Sample(0, 60.0, price_nano=400),), (Turn(4.0, 60.0),))
    found = figures(one, WORK, 4, 0)
    assert found.results_per_minute.value == pytest.approx(4.0)
    assert found.mpix_steps_per_s.value == pytest.approx(5.0 / 60)
    assert found.price_nano is not None
    assert found.price_nano.value == pytest.approx(100.0)


@pytest.mark.parametrize("samples", [(), (Sample(0, 1.0, failure="node"),)])
def test_without_a_good_run_there_are_no_figures(samples: tuple[Sample, ...]) -> None:
    """Nothing is divided by zero, and nothing is made up."""
    found = figures(recorded(*samples), WORK, 1, 0)
    assert (found.good, found.price_nano, found.variation) == (0, None, None)
    assert not found.results_per_minute.value
    assert found.stages_s == {}


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40), st.integers(1, 8))
def test_completions_add_up_to_the_whole_run(gaps: list[float], at_a_time: int) -> None:
    """Whatever the batches are, amounts and seconds are those of the run."""
    ended, now = [], 5.0
    for gap in gaps:
        now += gap
        ended.append(now)
    turns = completions(5.0, ended[::-1], [1.0] * len(gaps), at_a_time)
    assert sum(turn.amount for turn in turns) == len(gaps)
    assert sum(turn.over for turn in turns) == pytest.approx(now - 5.0)


def test_nodes_behind_a_broadcaster_are_told_apart_by_its_word() -> None:
    """A failed job names no node; a node's turns are the broadcaster's clock."""
    pool = Recorded(
        "pool",
        (Sample(9, 1.0, "b"),),
        (Sample(0, 3.0, "a", timings_s={"node_run": 2.0}), Sample(1, 1.0, "b"), Sample(2, 1.0, "pool", failure="node")),
        (),
    )
    a, b = by_node(pool, 2)
    assert (a.name, a.turns) == ("a", (Turn(2.0, 2.0),))
    assert (b.name, len(b.warmup)) == ("b", 1)


def test_variation_is_the_coefficient_of_variation() -> None:
    """Standard deviation over mean, from three values on."""
    assert variation([1.0, 2.0, 3.0]) == pytest.approx(0.5)
    assert variation([1.0, 2.0]) is None
