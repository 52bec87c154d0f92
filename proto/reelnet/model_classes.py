"""Which pipelines a model's class serves, known without loading a model library: runners and nodes go by it."""

from __future__ import annotations

from collections.abc import Mapping

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
    "QwenImage": (_DRAWS, _CHANGES),
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
UPSCALER = "Spandrel"
"""The class of a model that is one checkpoint, without an index: an upscaler, by the library that reads it."""
_OURS = {"FilmInterpolation": (FILM_PIPELINE,), UPSCALER: ("upscale", "upscale-video")}


def pipelines_of(class_name: str) -> tuple[str, ...]:
    """The pipelines of a well-known class; none for another one, which a runner may still serve."""
    return _OURS.get(class_name) or _FAMILIES.get(class_name.removesuffix("Pipeline"), ())


def pipelines_by(index: Mapping[str, object]) -> tuple[str, ...]:
    """The pipelines of a model by its model_index.json: what its class serves, unless the index says otherwise."""
    class_name = str(index.get("_class_name", ""))
    return () if draws_clips_alone(index) else pipelines_of(class_name)


def draws_clips_alone(index: Mapping[str, object]) -> bool:
    """Whether a model makes clips from words alone, which no pipeline does: of its class, TI2V takes a picture too."""
    return index.get("_class_name") == "WanPipeline" and not index.get("expand_timesteps")


def family_of(class_name: str) -> str:
    """The family of parameters that a class's pipelines take; empty where it is each pipeline's first."""
    return _OTHER_PARAMETERS.get(class_name.removesuffix("Pipeline"), "")
