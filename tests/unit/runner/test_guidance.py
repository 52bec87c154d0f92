"""Parameters that act by guidance alone, while it is off."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra: diffusers")

from reelnet.pipelines import pipeline_named
from runner.pipelines.guidance import frame_guidance_warnings, guidance_warnings

pytestmark = pytest.mark.diffusers
SILENT = SimpleNamespace()
"""A class that says nothing of its guidance."""


def told(pipeline: str, family: str, pipe: Any = SILENT, **params: Any) -> dict[str, str]:
    """Parameter → message."""
    parsed: Any = pipeline_named(pipeline, family).parse({"seed": 1, "prompt": "a fox", **params})
    return {warning.parameter: warning.message for warning in guidance_warnings(pipe, parsed)}


@pytest.mark.parametrize(
    ("pipeline", "family"), [("text-to-image", "sd"), ("image-to-image", "sd"), ("image-to-video", "wan")]
)
def test_a_negative_prompt_needs_guidance(pipeline: str, family: str) -> None:
    """With a scale of 1 or less it is not read."""
    assert told(pipeline, family, negative_prompt="ugly", guidance_scale=1.01) == {}
    assert told(pipeline, family, guidance_scale=1) == {}
    found = told(pipeline, family, negative_prompt="ugly", guidance_scale=1)
    assert found == {
        "negative_prompt": "negative_prompt changed nothing: guidance is off, because guidance_scale is 1."
    }


def test_what_a_class_says_of_its_guidance_counts() -> None:
    """A distilled model computes guidance in one pass, whatever the scale; others are guided below 1."""
    off, on = (SimpleNamespace(do_classifier_free_guidance=said) for said in (False, True))
    assert "one pass" in told("text-to-image", "sd", off, negative_prompt="ugly")["negative_prompt"]
    assert told("text-to-image", "sd", on, negative_prompt="ugly", guidance_scale=0.5) == {}


def test_instruct_pix2pix_needs_both_scales() -> None:
    """Either of them below its bound turns the other one off too."""
    edit = ("image-to-image", "pix2pix", SimpleNamespace(do_classifier_free_guidance=False))
    found = told(*edit, image_guidance_scale=0.5, negative_prompt="ugly")
    assert set(found) == {"negative_prompt", "guidance_scale"}
    assert "image_guidance_scale is 0.5" in found["guidance_scale"]
    assert set(told(*edit, guidance_scale=1)) == {"image_guidance_scale"}


@pytest.mark.parametrize(("least", "most", "told"), [(1, 1, []), (0.5, 1, ["min_guidance_scale"]), (2, 3, [])])
def test_a_clips_guidance_rises_or_is_off(least: float, most: float, told: list[str]) -> None:
    """Where its end is 1 or less, its beginning says nothing."""
    params: Any = pipeline_named("image-to-video", "svd").parse(
        {"min_guidance_scale": least, "max_guidance_scale": most, "seed": 1}
    )
    assert [warning.parameter for warning in frame_guidance_warnings(params)] == told
