"""Which pipelines a model's class serves, known without loading a model library."""

from __future__ import annotations

_DRAWS, _CHANGES = "text-to-image", "image-to-image"
VIDEO_PIPELINE, FILM_PIPELINE = "image-to-video", "frame-interpolation"
_FAMILIES = {
    "StableDiffusion": (_DRAWS, _CHANGES),
    "StableDiffusionXL": (_DRAWS, _CHANGES),
    "StableDiffusion3": (_DRAWS, _CHANGES),
    "Flux": (_DRAWS, _CHANGES),
    "LatentConsistencyModel": (_DRAWS, _CHANGES),
    "PixArtAlpha": (_DRAWS,),
    "PixArtSigma": (_DRAWS,),
    "Sana": (_DRAWS,),
    "StableDiffusionInstructPix2Pix": (_CHANGES,),
    "StableVideoDiffusion": (VIDEO_PIPELINE,),
    "Wan": (VIDEO_PIPELINE,),
    "WanImageToVideo": (VIDEO_PIPELINE,),
    "StableDiffusionUpscale": ("upscale",),
}
EDITING = "pix2pix"
"""The family whose classes change a picture by words and draw none without one."""
_OTHER_PARAMETERS = {"StableDiffusionInstructPix2Pix": EDITING, "Wan": "wan", "WanImageToVideo": "wan"}
_OURS = {"FilmInterpolation": (FILM_PIPELINE,)}


def pipelines_of(class_name: str) -> tuple[str, ...]:
    """The pipelines of a well-known class; none for another one, which a runner may still serve."""
    return _OURS.get(class_name) or _FAMILIES.get(class_name.removesuffix("Pipeline"), ())


def family_of(class_name: str) -> str:
    """The family of parameters that a class's pipelines take; empty where it is each pipeline's first."""
    return _OTHER_PARAMETERS.get(class_name.removesuffix("Pipeline"), "")
