"""Other programs' names for parameters, and what is too far from any name to be meant."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from reelnet.aliases import _CALLED, meant
from reelnet.pipelines import FAMILIES, PIPELINES, details, did_you_mean

TEXT = PIPELINES["text-to-image"].params
KNOWN = (*TEXT.model_fields, "model_id")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("n", ("num_images_per_prompt",)),
        ("size", ("width", "height")),
        ("steps", ("num_inference_steps",)),
        ("cfg_scale", ("guidance_scale",)),
        ("cfg", ("guidance_scale",)),
        ("numInferenceSteps", ("num_inference_steps",)),
        ("guidance-scale", ("guidance_scale",)),
        ("GuidanceScale", ("guidance_scale",)),
        ("num_outputs", ("num_images_per_prompt",)),
        ("batch_size", ("num_images_per_prompt",)),
        ("sampler_name", ("scheduler",)),
        ("negativePrompt", ("negative_prompt",)),
        ("model", ("model_id",)),
        ("aspect_ratio", ("width", "height")),
        ("response_format", ("output_format",)),
        ("lora_scale", ("loras",)),
        ("strength", ()),
        ("duration", ()),
        ("user", ()),
        ("", ()),
        ("-", ()),
        ("x" * 10_000, ()),
    ],
)
def test_another_programs_name_is_understood(name: str, known: tuple[str, ...]) -> None:
    """Where this pipeline has what it means, however it is spelled."""
    assert meant(name, KNOWN) == known


def test_a_name_means_what_the_pipeline_has() -> None:
    """The same word is another parameter, or none, elsewhere."""
    video = FAMILIES["image-to-video", "svd"].params.model_fields
    assert meant("duration", video) == ("num_frames", "fps")
    assert meant("frame_rate", video) == ("fps",)
    assert meant("scale", PIPELINES["upscale"].params.model_fields) == ()


def test_every_meaning_exists() -> None:
    """A parameter that is renamed or removed is no hint any more."""
    real = {
        "model_id",
        *(name for pipeline in FAMILIES.values() for name in (*pipeline.params.model_fields, *pipeline.inputs)),
    }
    assert {name for names in _CALLED for name in names} <= real


def rows(**fields: object) -> list[dict[str, object]]:
    """What is wrong with a request for a picture."""
    with pytest.raises(ValidationError) as caught:
        TEXT.model_validate({"prompt": "boat", **fields})
    return details(caught.value, TEXT, also=("model_id",))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("n", "did you mean 'num_images_per_prompt'?"),
        ("size", "did you mean 'width' and 'height'?"),
        ("steps", "did you mean 'num_inference_steps'?"),
        ("cfg_scale", "did you mean 'guidance_scale'?"),
        ("model", "did you mean 'model_id'?"),
        ("promt", "did you mean 'prompt'?"),
        ("sede", "did you mean 'seed'?"),
        ("hieght", "did you mean 'height'?"),
        ("num_inference_step", "did you mean 'num_inference_steps'?"),
    ],
)
def test_an_unknown_parameter_is_answered_by_the_one_that_is_meant(name: str, hint: str) -> None:
    """And by the list of all."""
    (row,) = rows(**{name: 1})
    assert hint in str(row["msg"])
    assert "known: guidance_scale" in str(row["msg"])
    assert "model_id" in str(row["msg"])


@pytest.mark.parametrize("name", ["user", "style", "quality", "stream", "tiling", "webhook", "hires_fix", "x", "é"])
def test_what_is_like_nothing_gets_no_guess(name: str) -> None:
    """A far-fetched one sends its reader the wrong way; the list stays."""
    (row,) = rows(**{name: 1})
    assert "did you mean" not in str(row["msg"])
    assert "known: " in str(row["msg"])


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("favicon.ico", list(PIPELINES), ""),
        ("v1/images/generations", list(PIPELINES), ""),
        ("text-to-imag", list(PIPELINES), "text-to-image"),
        ("image-to-vedio", list(PIPELINES), "image-to-video"),
        ("fsp", ["fps", "fit", "seed"], "fps"),
        ("stabilityai/sdxl-turbo", ["acme/sd-turbo-xl", "stabilityai/stable-video-diffusion-img2vid-xt"], ""),
        ("synthetic/barz", ["synthetic/bars"], "synthetic/bars"),
        ("anything", [], ""),
    ],
)
def test_a_guess_is_near(name: str, known: list[str], said: str) -> None:
    """Of any names: a slip of the pen is mended, another word is not."""
    hint = did_you_mean(name, known)
    assert (f"did you mean {said!r}?" in hint) if said else ("did you mean" not in hint)
    assert "(known: )" not in hint


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("scheduler", "bogus", ["scheduler"]),
        ("scheduler", 7, ["scheduler"]),
        ("output_format", "gif", ["output_format"]),
        ("seed", "x", ["seed"]),
        ("seed", 1.5, ["seed"]),
        ("loras", [1], ["loras"]),
        ("loras", {"": 1}, ["loras"]),
        ("loras", {"a": "b"}, ["loras", "a"]),
        ("loras", "{", ["loras"]),
        ("width", "wide", ["width"]),
        ("safety", "maybe", ["safety"]),
    ],
)
def test_a_place_is_one_in_the_request(field: str, value: object, place: list[str]) -> None:
    """None of pydantic's own names for what it tried, and one row for each place."""
    (row,) = rows(**{field: value})
    assert row["loc"] == place
    assert "dictionary" not in str(row["msg"])


def test_a_rule_of_two_parameters_stands_at_the_one_it_names() -> None:
    """Its name is not said twice; what is wrong with the whole request has no place and no prefix."""
    (row,) = rows(scheduler="lcm", num_inference_steps=60)
    assert (row["loc"], str(row["msg"]).startswith("60 is more")) == (["num_inference_steps"], True)
    (row,) = rows(width=4096, height=4096)
    assert (row["loc"], str(row["msg"]).startswith("4096×4096 is")) == ([], True)
