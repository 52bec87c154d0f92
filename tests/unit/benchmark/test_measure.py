"""The benchmark's statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.measure import Sample, quantile, spread, summarize
from reelnet.pipelines import Work

SECONDS = st.floats(0, 1e6, allow_nan=False)
SHARES = st.floats(0, 1)
WORK = Work(pixel_steps=5_000_000, output_pixels=250_000)


@given(st.lists(SECONDS, min_size=1, max_size=50), SHARES)
def test_a_quantile_is_numpys(values: list[float], share: float) -> None:
    """Linear interpolation between the two nearest values, as numpy's default."""
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-9)


@given(st.lists(SECONDS, min_size=1, max_size=50), SHARES, SHARES)
def test_quantiles_lie_among_the_values_and_in_order(values: list[float], one: float, other: float) -> None:
    """A larger share never gives a smaller quantile, and none lies outside the values."""
    low, high = quantile(values, min(one, other)), quantile(values, max(one, other))
    assert min(values) <= low <= high <= max(values)


@given(st.lists(SECONDS, min_size=1, max_size=20))
def test_the_order_of_runs_does_not_matter(values: list[float]) -> None:
    """A spread is of the set of values."""
    assert spread(values) == spread(values[::-1])


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], -0.1), ([1.0], 1.1)])
def test_a_quantile_of_nothing_is_an_error(values: list[float], share: float) -> None:
    """No values, or no share from 0 to 1, is a programmer's fault."""
    with pytest.raises(ValueError, match="quantile"):
        quantile(values, share)


def test_failed_runs_count_and_are_not_measured() -> None:
    """Throughput, latency and price are of the runs that went well; failures are counted by class and code."""
    samples = [
        Sample(0, 2.0, "a", 100, {"run": 1.0}),
        Sample(1, 4.0, "b", 200, {"run": 3.0}),
        Sample(2, 0.1, failure="busy", code="queue_full"),
        Sample(3, 0.1, failure="busy", code="queue_full"),
        Sample(4, 9.0, "b", 300, {"run": 9.0}, failure="check", code="size"),
    ]
    summary = summarize(samples, wall_s=10.0, work=WORK)
    assert (summary.runs, summary.good) == (5, 2)
    assert summary.failures == {"busy/queue_full": 2, "check/size": 1}
    assert summary.results_per_minute == pytest.approx(12.0)
    assert summary.mpix_steps_per_s == pytest.approx(1.0)
    assert summary.price_nano == pytest.approx(150.0)
    assert summary.total_s is not None
    assert summary.total_s.p50 == pytest.approx(3.0)
    assert summary.stages_s["run"].p99 < 3.0
    assert {node: share.runs for node, share in summary.nodes.items()} == {"a": 1, "b": 1}


def test_a_stage_counts_only_the_runs_that_had_it() -> None:
    """One cold run among warm ones does not make loading look free."""
    samples = [Sample(0, 1.0, timings_s={"load": 8.0, "run": 1.0}), Sample(1, 1.0, timings_s={"run": 1.0})]
    assert summarize(samples, 2.0, WORK).stages_s["load"].p50 == 8.0


def test_stages_stand_in_the_order_of_a_job() -> None:
    """Known stages come as they happen, unknown ones after them by name."""
    sample = Sample(0, 1.0, timings_s={"zoom": 1, "encode": 1, "aim": 1, "denoise": 1, "queue": 1})
    assert list(summarize([sample], 1.0, WORK).stages_s) == ["queue", "denoise", "encode", "aim", "zoom"]


def test_several_results_of_a_run_count_each() -> None:
    """Four images a job are four images, each at a quarter of the price."""
    summary = summarize([Sample(0, 1.0, price_nano=400)], 60.0, WORK, results=4)
    assert (summary.results_per_minute, summary.price_nano) == (4.0, 100.0)


@pytest.mark.parametrize("samples", [[], [Sample(0, 1.0, failure="node")]])
def test_without_a_good_run_there_are_no_figures(samples: list[Sample]) -> None:
    """Nothing is divided by zero, and nothing is made up."""
    summary = summarize(samples, 0.0, WORK)
    assert (summary.good, summary.results_per_minute, summary.price_nano, summary.total_s) == (0, 0.0, None, None)
    assert summary.stages_s == {}
