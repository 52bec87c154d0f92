"""Frame rates as people write them."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reelnet.frame_rates import parsed_rate, written_rate
from reelnet.pipelines import PIPELINES, pipeline_named

NTSC = Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (24, Fraction(24)),
        ("24", Fraction(24)),
        (24.0, Fraction(24)),
        ("24.000", Fraction(24)),
        (29.97, NTSC),
        ("29.97", NTSC),
        ("30000/1001", NTSC),
        (30000 / 1001, NTSC),
        ("23.976", Fraction(24000, 1001)),
        (23.98, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        ("47.952", Fraction(48000, 1001)),
        (12.5, Fraction(25, 2)),
        ("25/2", Fraction(25, 2)),
        (" 60/2 ", Fraction(30)),
        (14.985, Fraction(15000, 1001)),
        (119.88, Fraction(120000, 1001)),
    ],
)
def test_what_is_written_is_meant(given: object, meant: Fraction) -> None:
    """Whole numbers, decimals, television's short names, and fractions, as numbers and as text."""
    assert parsed_rate(given) == meant


NONSENSE = ["", "fast", "1/0", "30/", "/1001", "30000/1001/1", "-24", "1e3", "nan", "inf", "٣", "24 fps", "1/1002"]
LONG = ["9" * 400, "1/" + "9" * 400]


@pytest.mark.parametrize("nonsense", [*NONSENSE, *LONG, True, None, [24], {}, float("nan"), float("inf"), -1.5])
def test_what_is_no_rate_is_refused(nonsense: object) -> None:
    """With a word that says what is expected."""
    with pytest.raises(ValueError, match=r"expected frames a second|at most 1001 in the denominator"):
        parsed_rate(nonsense)


@given(st.fractions(min_value=1, max_value=120, max_denominator=1001))
def test_a_written_rate_is_read_again(rate: Fraction) -> None:
    """Exactly: broadcaster, node and runner count the same frames."""
    assert parsed_rate(written_rate(rate)) == rate


@pytest.mark.parametrize(("text", "wire"), [("29.97", "30000/1001"), (24, 24), ("12.5", "25/2")])
def test_a_rate_crosses_the_wire_exactly(text: object, wire: object) -> None:
    """A whole one as a number, which nodes of every version read."""
    pipeline = PIPELINES["frame-interpolation"]
    params = pipeline.parse({"fps": text, "seed": 1})
    assert params.model_dump(mode="json")["fps"] == wire
    assert pipeline.parse_json(params.model_dump_json().encode()) == params
    clip = PIPELINES["image-to-video"]
    film = clip.parse({"interpolate_to_fps": text, "seed": 1})
    assert film.model_dump(mode="json")["interpolate_to_fps"] == wire
    assert clip.parse_json(film.model_dump_json().encode()) == film


@pytest.mark.parametrize("rate", [0, 0.5, 121, "120001/1000", "0", "1/2"])
def test_a_rate_has_bounds(rate: object) -> None:
    """From 1 to 120 a second."""
    with pytest.raises(ValidationError):
        PIPELINES["frame-interpolation"].parse({"fps": rate})
    with pytest.raises(ValidationError):
        PIPELINES["image-to-video"].parse({"interpolate_to_fps": rate})


def test_what_an_older_node_would_count_otherwise_goes_to_none() -> None:
    """A clip's length counts since version 4, so older nodes are not asked for such jobs, and for others they are."""
    assert PIPELINES["frame-interpolation"].parse({"fps": 24}).required_version() == 4
    assert PIPELINES["image-to-video"].parse({"interpolate_to_fps": 24}).required_version() == 4
    assert PIPELINES["image-to-video"].parse({}).required_version() == 1
    assert pipeline_named("upscale-video").parse({}).required_version() == 1
