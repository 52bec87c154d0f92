"""The score: bounded, monotone in each part, and 0 for a lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.intervals import Turn
from benchmark.measure import Figures, Recorded, Sample, figures
from benchmark.reference import Reference, best_of, reference_for
from benchmark.score import score
from reelnet.pipelines import Work

WORK = Work(pixel_steps=1_000_000, output_pixels=1)
R = Reference(1.0, "a test")


def node(seconds: list[float], failed: int = 0, findings: tuple[str, ...] = ()) -> Figures:
    """A node's figures: runs of those seconds, of which the first has the findings; then failures that take no time."""
    good = [Sample(i, s, findings=() if i else findings) for i, s in enumerate(seconds)]
    bad = [Sample(100 + i, 0.0, failure="busy", code="queue_full") for i in range(failed)]
    turns = tuple(Turn(float(s.good), s.total_s) for s in (*good, *bad))
    return figures(Recorded("n", (), (*good, *bad), turns), WORK, 1, 0)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=30), st.integers(0, 30))
def test_a_score_is_from_0_to_100(seconds: list[float], failed: int) -> None:
    """So is every part from 0 to 1, and the product of the parts is the whole."""
    found = score(node(seconds, failed), R)
    assert 0 <= found.total <= 100
    parts = (found.throughput, found.tail, found.success, found.correctness)
    assert all(0 <= part <= 1 for part in parts)
    whole = 100 * found.correctness * found.success * found.throughput**0.5 * found.tail**0.25
    assert found.total == pytest.approx(whole, abs=0.051)


def test_a_perfect_node_at_the_reference_has_100() -> None:
    """Steady, never failing, as fast as the reference."""
    assert score(node([1.0] * 20), R).total == 100.0


def test_better_is_never_less() -> None:
    """Faster, steadier, and failing less each raise the score."""
    usual = score(node([2.0] * 18 + [4.0] * 2), R).total
    assert score(node([1.5] * 18 + [3.0] * 2), R).total > usual
    assert score(node([2.2] * 20), R).total > usual
    assert score(node([2.0] * 18 + [4.0] * 2, failed=1), R).total < usual


def test_one_lie_is_0_with_the_reason() -> None:
    """However fast the node is, and however well its other runs went."""
    assert node([0.1] * 20, findings=("replayed",)).good == 19
    found = score(node([0.1] * 20, findings=("replayed",)), R)
    assert (found.total, found.correctness) == (0.0, 0.0)
    assert "delivered before" in found.reason
    hard = replace(node([0.1] * 20), wrong={"frames": 3})
    assert score(hard, R).reason == "the output is not what was asked (frames): 3 times"


@pytest.mark.parametrize(("runs", "tail_of"), [(1, "one run"), (5, "p50/longest"), (10, "p50/p90"), (100, "p50/p99")])
def test_the_tail_is_the_farthest_that_the_runs_allow(runs: int, tail_of: str) -> None:
    """And says which."""
    assert score(node([1.0] * runs), R).tail_of == tail_of


def test_without_a_good_run_the_score_is_0() -> None:
    """Also when there is nothing to compare with."""
    assert score(node([], failed=2), R).total == 0
    assert score(node([], failed=2), R).reason == "no job went well"
    assert score(node([1.0] * 5), None).total == 0


def test_references_are_by_model_and_say_where_they_are_from() -> None:
    """A tiny model is not held against a large GPU, and a number given wins."""
    video = reference_for("image-to-video", "stabilityai/stable-video-diffusion-img2vid-xt", None)
    tiny = reference_for("image-to-video", "reelnet/tiny-random-svd", None)
    assert video is not None
    assert tiny is not None
    assert "H200" in video.source
    assert "CPU" in tiny.source
    assert reference_for("text-to-image", "stabilityai/stable-diffusion-xl-base-1.0", None) != reference_for(
        "text-to-image", "stable-diffusion-v1-5/stable-diffusion-v1-5", None
    )
    assert reference_for("upscale", "acme/up", None) is None
    assert reference_for("upscale", "acme/up", 5.0) == Reference(5.0, "given by --reference")
    assert best_of([None, 2.0, 3.0]) == Reference(3.0, best_of([3.0]).source)  # type: ignore[union-attr]
    assert best_of([None]) is None
