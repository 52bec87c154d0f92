"""Which parameters of a job acted by guidance alone, while guidance was off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reelnet.parameters import ImageEdit, ImageToImage, ImageToVideo, PromptedVideo, TextToImage
from reelnet.warnings import GUIDANCE_OFF, JobWarning

Prompted = TextToImage | ImageEdit | PromptedVideo
_LEAST = 1.0
"""Classifier-free guidance of this scale or less is the prompt's prediction alone."""


def guidance_warnings(pipe: Any, params: Prompted) -> Iterator[JobWarning]:
    """After a call of `pipe`: a warning for each parameter that changed nothing, because the call was not guided."""
    if _guided(pipe, params):
        return
    if params.negative_prompt.strip():
        yield _off("negative_prompt", _why(params))
    if isinstance(params, ImageEdit) and not isinstance(params, ImageToImage):
        if params.guidance_scale > _LEAST:
            yield _off("guidance_scale", f"image_guidance_scale is {params.image_guidance_scale:g}")
        if params.image_guidance_scale > _LEAST:
            yield _off("image_guidance_scale", f"guidance_scale is {params.guidance_scale:g}")


def frame_guidance_warnings(params: ImageToVideo) -> Iterator[JobWarning]:
    """Guidance of a clip rises from one scale to another, and is off where the second one is too small."""
    if params.max_guidance_scale <= _LEAST and params.min_guidance_scale != _LEAST:
        yield _off("min_guidance_scale", f"max_guidance_scale is {params.max_guidance_scale:g}")


def _guided(pipe: Any, params: Prompted) -> bool:
    """What the class says of its last call; by the scale where it says nothing."""
    return bool(getattr(pipe, "do_classifier_free_guidance", params.guidance_scale > _LEAST))


def _why(params: Prompted) -> str:
    if isinstance(params, ImageEdit) and not isinstance(params, ImageToImage) and params.image_guidance_scale < _LEAST:
        return f"image_guidance_scale is {params.image_guidance_scale:g}"
    if params.guidance_scale <= _LEAST:
        return f"guidance_scale is {params.guidance_scale:g}"
    return "this model computes guidance in one pass"


def _off(name: str, why: str) -> JobWarning:
    return JobWarning(GUIDANCE_OFF, f"{name} changed nothing: guidance is off, because {why}.", name)
