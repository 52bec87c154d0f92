"""Each pipeline's parameters with defaults and bounds, as pydantic models.

Names, defaults and bounds follow diffusers' call arguments and the Livepeer gateway's HTTP API. A parameter that came
later than the first version of the schemas says so: `json_schema_extra={"since": 2, "neutral": <value>}`; with
`"feature"` beside them, a job in which it is not neutral goes only to nodes that offer this feature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from reelnet.frame_rates import parsed_rate, written_rate

MAX_SEED = 2**53 - 64
"""Largest seed of a job: seed + i of its last image stays an exact number in JSON."""
MAX_PIXELS = 2048 * 2048
"""Most pixels of one generated frame."""
MAX_INPUT_PIXELS = 50_000_000
MAX_IMAGES = 10
MAX_CLIP_FRAMES = 3600
"""Most frames of a clip at another rate."""
MAX_PROMPT_CHARS = 4096
MAX_FIELDS = 64
"""Most parameters that one request may name, known or not."""
MAX_LORAS = 8
UPSCALE_FACTOR = 4
VIDEO = "video"
"""The name of an input that is a clip; an input of any other name is a picture."""
SchedulerName = Literal[
    "ddim", "ddpm", "dpm++-2m", "dpm++-2m-karras", "dpm++-sde", "euler", "euler-ancestral", "heun", "lcm",
    "pndm", "tcd", "unipc",
]  # fmt: skip
"""Schedulers that a job or an operator can ask for by name."""
MOST_STEPS: dict[str, int] = {"lcm": 50, "tcd": 50}
"""Most denoising steps of a scheduler that draws with steps of its training: consistency models were trained for 50."""
MAX_LORA_STRENGTH = 10.0
"""Largest strength of a LoRA, to either side. Numbers overflow far beyond it."""
PICTURE_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""What `output_format` may be, and the media type that it gives. WebP is lossless."""
INTERPOLATION, SAFETY = "interpolation", "safety"
"""Features: what a node offers beside a pipeline when it has the nets for it."""
SafetyPolicy = Literal["", "flag", "blur", "refuse"]
SAFETY_POLICIES: tuple[SafetyPolicy, ...] = ("", "flag", "blur", "refuse")
"""What `safety` may be, the laxest first. Empty: as `safety_check` says, where the node can."""
CHECKED_FIRST = frozenset({"blur", "refuse"})
"""Safety policies under which nobody sees a picture before the checker has."""


def strictest(*policies: SafetyPolicy) -> SafetyPolicy:
    """The one of these policies that asks for most; the order in which they are named is no matter."""
    return max(policies, key=SAFETY_POLICIES.index)


def _json_object(value: object) -> object:
    """`loras` arrives as a JSON object, as that object in a string, or as an empty string.

    It is counted before its entries are looked at. A LoRA without a strength, null, is not asked for.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError):
            raise ValueError('expected a JSON object such as {"repo-or-path": 0.8}') from None
    if isinstance(value, dict) and len(value) > MAX_LORAS:
        raise ValueError(f"{len(value)} LoRAs; at most {MAX_LORAS} are applied")
    if isinstance(value, dict):
        return {name: strength for name, strength in value.items() if strength is not None}
    return value


Prompt = Annotated[str, Field(max_length=MAX_PROMPT_CHARS, description="What to draw.")]
NegativePrompt = Annotated[
    str, Field(max_length=MAX_PROMPT_CHARS, description="What not to draw; needs guidance over 1.")
]
Side = Annotated[int, Field(ge=64, le=4096, multiple_of=8, description="Pixels; a multiple of 8.")]
Steps = Annotated[int, Field(ge=1, le=200, description="Denoising steps.")]
Guidance = Annotated[float, Field(ge=0, le=30, allow_inf_nan=False, description="Classifier-free guidance.")]
ImageGuidance = Annotated[
    float, Field(ge=0, le=30, allow_inf_nan=False, description="Pull towards the picture, for InstructPix2Pix alone.")
]
Count = Annotated[int, Field(ge=1, le=MAX_IMAGES, description="Images; image i uses seed + i.")]
Seed = Annotated[int | None, Field(ge=0, le=MAX_SEED, description="Random when absent.")]
Strength = Annotated[float, Field(ge=-MAX_LORA_STRENGTH, le=MAX_LORA_STRENGTH, allow_inf_nan=False)]
Loras = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=256)], Strength],
    Field(max_length=MAX_LORAS, description="A LoRA's id → strength, several at once; 0 is off."),
    BeforeValidator(_json_object),
]

SchedulerChoice = Annotated[
    SchedulerName | Literal[""],
    Field(description="Scheduler; empty: the model's own.", json_schema_extra={"since": 2, "neutral": ""}),
]
OutputFormat = Annotated[
    Literal["png", "jpeg", "webp"],
    Field(description="File format of the pictures.", json_schema_extra={"since": 2, "neutral": "png"}),
]
UpscaledFormat = Annotated[
    Literal["png", "jpeg", "webp"],
    Field(description="File format; JPEG has no transparency.", json_schema_extra={"since": 3, "neutral": "png"}),
]
VideoCodec = Annotated[
    Literal["h264", "av1", "vp9"],
    Field(description="How the MP4's pictures are coded.", json_schema_extra={"since": 3, "neutral": "h264"}),
]
Metadata = Annotated[
    bool,
    Field(
        description="Write model and parameters into the files; never who made them, or when.",
        json_schema_extra={"since": 3, "neutral": False},
    ),
]
PreviewSteps = Annotated[
    int,
    Field(
        ge=0,
        le=200,
        description="Steps from one preview of the unfinished picture to the next; 0: none.",
        json_schema_extra={"since": 3, "neutral": 0},
    ),
]
Fit = Annotated[
    Literal["crop", "pad", "stretch"],
    Field(
        description="How the picture gets the clip's size: cut around its centre, with black borders, or distorted.",
        json_schema_extra={"since": 3, "neutral": "crop"},
    ),
]
_RATE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "number", "minimum": 1, "maximum": 120},
        {"type": "string", "pattern": r"^\d+(\.\d+|/\d+)?$"},
    ]
}
FrameRate = Annotated[
    Fraction,
    BeforeValidator(parsed_rate),
    PlainSerializer(written_rate, return_type=int | str),
    WithJsonSchema(_RATE_SCHEMA),
]
"""Frames a second: a number, or text as "29.97" or "30000/1001"."""
InterpolateTo = Annotated[
    FrameRate | None,
    Field(
        ge=2,
        le=120,
        description="Frames per second to which frames are made between the model's; the clip's length stays.",
        json_schema_extra={"since": 4, "neutral": None, "feature": INTERPOLATION},
    ),
]


class Params(BaseModel):
    """Parameters that every pipeline has. Unknown names are refused with the nearest known one.

    `since`: the first schema version that promises what this one does for the same parameters.
    """

    since: ClassVar[int] = 1

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False, protected_namespaces=())

    seed: Seed = None
    safety_check: bool = Field(True, description="Ask for the model's safety checker, where the node has one.")
    safety: SafetyPolicy = Field(
        "",
        description="What a safety checker has to do: tell, blur, or withhold; empty: as safety_check says.",
        json_schema_extra={"since": 3, "neutral": "", "feature": SAFETY},
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, raw: object) -> object:
        """A null is an absent value; so is an empty string, as forms and the published clients send it, but in a text.

        Names are counted before anything is said of each.
        """
        if not isinstance(raw, Mapping):
            return raw
        if len(raw) > MAX_FIELDS:
            raise ValueError(f"{len(raw)} parameters; at most {MAX_FIELDS} are read")
        absent = (k for k, v in raw.items() if v is None or (v == "" and k in cls._optional_fields()))
        left_out = frozenset(absent)
        return {k: v for k, v in raw.items() if k not in left_out}

    @model_validator(mode="after")
    def _bounded_area(self) -> Self:
        width, height = getattr(self, "width", 0), getattr(self, "height", 0)
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}×{height} is {width * height} pixels; at most {MAX_PIXELS} are allowed")
        return self

    @model_serializer(mode="wrap")
    def _without_neutral(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what a later version brought and this job does not use: an older node knows no such name."""
        values: dict[str, Any] = dump(self)
        for name, extra in self._later_fields():
            if name in values and getattr(self, name) == extra["neutral"]:
                del values[name]
        return values

    def missing(self) -> list[str]:
        """The parameters of the first schema version that were not given: a complete job names each."""
        return sorted(self._first_fields() - self.model_fields_set)

    def required_version(self) -> int:
        """The lowest schema version that knows every parameter of this job which is not neutral."""
        newest = self.since
        for name, extra in self._later_fields():
            if getattr(self, name) != extra["neutral"]:
                newest = max(newest, int(str(extra["since"])))
        return newest

    def required_features(self) -> frozenset[str]:
        """What a node has to offer beside the pipeline, for the parameters that are not neutral."""
        return frozenset(
            str(extra["feature"])
            for name, extra in self._later_fields()
            if "feature" in extra and getattr(self, name) != extra["neutral"]
        )

    @classmethod
    def asking_for(cls, feature: str) -> str:
        """The parameter that asks for a feature."""
        return next(name for name, extra in cls._later_fields() if extra.get("feature") == feature)

    @classmethod
    @cache
    def _optional_fields(cls) -> frozenset[str]:
        """The fields that an empty string leaves out: those that are no text."""
        return frozenset(name for name, field in cls.model_fields.items() if field.annotation is not str)

    @classmethod
    @cache
    def _first_fields(cls) -> frozenset[str]:
        """The fields of the first schema version."""
        return frozenset(cls.model_fields) - {name for name, _ in cls._later_fields()}

    @classmethod
    @cache
    def _later_fields(cls) -> list[tuple[str, dict[str, Any]]]:
        """The fields that a later schema version brought, with what they say of it."""
        extras = ((name, field.json_schema_extra) for name, field in cls.model_fields.items())
        return [(name, dict(extra)) for name, extra in extras if isinstance(extra, dict) and "since" in extra]


class Denoised(Params):
    """What every job has whose scheduler can be named."""

    @model_validator(mode="after")
    def _steps_of_scheduler(self) -> Self:
        name, steps = getattr(self, "scheduler", ""), getattr(self, "num_inference_steps", 0)
        if steps > (most := MOST_STEPS.get(name, steps)):
            given = "" if "num_inference_steps" in self.model_fields_set else " (the default)"
            raise ValueError(
                f"num_inference_steps: {steps}{given} is more than the scheduler {name} has; ask for 1 to {most}"
            )
        return self


def _prompt_not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("the prompt is empty; say what to draw")
    return value


RequiredPrompt = Annotated[Prompt, BeforeValidator(lambda v: _prompt_not_blank(v) if isinstance(v, str) else v)]


class TextToImage(Denoised):
    """A picture from words."""

    prompt: RequiredPrompt
    negative_prompt: NegativePrompt = ""
    height: Side = 576
    width: Side = 1024
    guidance_scale: Guidance = 7.5
    num_inference_steps: Steps = 50
    num_images_per_prompt: Count = 1
    loras: Loras = Field(default_factory=dict)
    scheduler: SchedulerChoice = ""
    output_format: OutputFormat = "png"
    metadata: Metadata = False
    preview_steps: PreviewSteps = 0


class ImageEdit(Denoised):
    """A picture changed as words say, from noise on (InstructPix2Pix); it keeps the input's size."""

    prompt: RequiredPrompt
    negative_prompt: NegativePrompt = ""
    guidance_scale: Guidance = 7.5
    image_guidance_scale: ImageGuidance = 1.5
    num_inference_steps: Steps = 100
    num_images_per_prompt: Count = 1
    loras: Loras = Field(default_factory=dict)
    scheduler: SchedulerChoice = ""
    output_format: OutputFormat = "png"
    metadata: Metadata = False
    preview_steps: PreviewSteps = 0


class ImageToImage(ImageEdit):
    """A picture from a picture and words; it keeps the input's size."""

    strength: float = Field(0.8, gt=0, le=1, allow_inf_nan=False, description="Share of the steps that is run.")


class Clip(Params):
    """What every clip has that is made of a picture."""

    fit: Fit = "crop"
    interpolate_to_fps: InterpolateTo = None
    video_codec: VideoCodec = "h264"
    metadata: Metadata = False
    preview_steps: PreviewSteps = 0

    @model_validator(mode="after")
    def _never_slower(self) -> Self:
        fps: int = getattr(self, "fps", 0)
        if self.interpolate_to_fps is not None and self.interpolate_to_fps < fps:
            raise ValueError(
                f"interpolate_to_fps: {written_rate(self.interpolate_to_fps)} is less than the model's fps, {fps}"
            )
        return self


class ImageToVideo(Clip):
    """A clip that begins with a picture (Stable Video Diffusion)."""

    height: Side = 576
    width: Side = 1024
    num_frames: int = Field(14, ge=2, le=25, description="Frames of the clip.")
    fps: int = Field(6, ge=1, le=60, description="Frames per second of the clip, also a condition of the model.")
    motion_bucket_id: int = Field(127, ge=1, le=255, description="More is more motion.")
    noise_aug_strength: float = Field(0.02, ge=0, le=10, allow_inf_nan=False, description="Noise on the input.")
    num_inference_steps: Steps = 25
    min_guidance_scale: Guidance = 1.0
    max_guidance_scale: Guidance = 3.0
    decode_chunk_size: int = Field(8, ge=1, le=25, description="Frames decoded at once; it changes the output.")

    @model_validator(mode="after")
    def _guided_to_the_end(self) -> Self:
        """The class decides by the last frame's scale whether it guides at all."""
        least, most = self.min_guidance_scale, self.max_guidance_scale
        if most <= 1 < least:
            message = f"max_guidance_scale: {most:g} turns guidance off, and min_guidance_scale is {least:g}"
            raise ValueError(f"{message}; make the first one larger, or the second one 1 or less")
        return self


class PromptedVideo(Clip):
    """A clip that begins with a picture and follows words (Wan)."""

    prompt: Prompt = ""
    negative_prompt: NegativePrompt = ""
    height: Side = 480
    width: Side = 832
    num_frames: int = Field(81, ge=5, le=121, description="Frames of the clip: a multiple of 4, and one more.")
    fps: int = Field(16, ge=1, le=60, description="Frames per second of the clip.")
    guidance_scale: Guidance = 5.0
    num_inference_steps: Steps = 40
    loras: Loras = Field(default_factory=dict)

    @field_validator("num_frames")
    @classmethod
    def _whole_groups(cls, value: int) -> int:
        """The model's VAE holds the first frame by itself, and then four at a time."""
        if value % 4 != 1:
            near = value - (value - 1) % 4
            raise ValueError(f"{value} is no multiple of 4 and one more; the nearest are {near} and {near + 4}")
        return value


class Upscale(Params):
    """A picture, four times as wide and as high."""

    prompt: Prompt = ""
    num_inference_steps: Steps = 75
    output_format: UpscaledFormat = "png"
    metadata: Metadata = False


class UpscaleVideo(Params):
    """A clip, four times as wide and as high, with its rate, its timing and its sound."""

    video_codec: VideoCodec = "h264"
    metadata: Metadata = False


class FrameInterpolation(Params):
    """A clip at another frame rate: frames are made between those it has, by their times, and its length stays."""

    since: ClassVar[int] = 4
    fps: FrameRate = Field(
        Fraction(24),
        ge=1,
        le=120,
        description="Frames per second of the new clip, as 24, 29.97 or 30000/1001.",
        json_schema_extra={"default": 24},
    )
    video_codec: VideoCodec = "h264"
    metadata: Metadata = False
