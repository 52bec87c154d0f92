"""The pipelines of well-known classes."""

from __future__ import annotations

import pytest

from reelnet.model_classes import _FAMILIES, UPSCALER, pipelines_by, pipelines_of
from runner.models.film_folder import CLASS


def test_what_is_not_known_is_not_guessed() -> None:
    """A runner may serve it all the same."""
    assert pipelines_of("StableDiffusionXLPipeline") == ("text-to-image", "image-to-image")
    assert pipelines_of("WanImageToVideoPipeline") == pipelines_of("WanPipeline") == ("image-to-video",)
    assert pipelines_of(CLASS) == ("frame-interpolation",)
    assert pipelines_of(UPSCALER) == ("upscale", "upscale-video")
    assert pipelines_of("StableDiffusionInstructPix2PixPipeline") == ("image-to-image",)
    assert pipelines_of("SomethingNewPipeline") == pipelines_of("") == ()


@pytest.mark.parametrize(
    ("index", "pipelines"),
    [
        ({"_class_name": "WanPipeline", "expand_timesteps": True}, ("image-to-video",)),
        ({"_class_name": "WanPipeline"}, ()),
        ({"_class_name": "FluxPipeline"}, ("text-to-image", "image-to-image")),
        ({}, ()),
    ],
)
def test_an_index_may_say_more_than_its_class(index: dict[str, object], pipelines: tuple[str, ...]) -> None:
    """Of one class some models take a picture and some do not."""
    assert pipelines_by(index) == pipelines


@pytest.mark.diffusers
def test_the_classes_are_those_of_diffusers() -> None:
    """Each is a class of diffusers, and draws or changes where its automatic pipelines know it."""
    import diffusers
    from diffusers.pipelines import auto_pipeline as auto

    draws = {kind.__name__ for kind in auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}
    changes = set(auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING)
    names = {kind.__name__: name for name, kind in auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING.items()}
    for family, pipelines in _FAMILIES.items():
        name = f"{family}Pipeline"
        assert hasattr(diffusers, name)
        assert ("text-to-image" in pipelines) == (name in draws), name
        if name in draws:
            assert ("image-to-image" in pipelines) == (names[name] in changes), name
