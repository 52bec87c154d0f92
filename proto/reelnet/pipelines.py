"""Every pipeline: its parameters with defaults and bounds, its work units, and the media it promises.

This is the one place that knows them. The broadcaster validates and fills defaults with these models, prices with
`Pipeline.work` and checks what a node delivers against `Pipeline.promises`; a runner reads the same models again.
Parameter names, defaults and bounds follow diffusers' call arguments and the Livepeer gateway's HTTP API.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from reelnet.errors import UserError

MAX_SEED = 2**53 - 64
"""Largest seed of a job: seed + i of its last image stays an exact number in JSON."""
MAX_PIXELS = 2048 * 2048
"""Most pixels of one generated frame."""
MAX_INPUT_PIXELS = 50_000_000
MAX_IMAGES = 10
MAX_PROMPT_CHARS = 4096
UPSCALE_FACTOR = 4
VIDEO = "video"
"""The name of an input that is a clip; an input of any other name is a picture."""
SchedulerName = Literal[
    "ddim", "ddpm", "dpm++-2m", "dpm++-2m-karras", "dpm++-sde", "euler", "euler-ancestral", "heun", "lcm",
    "pndm", "tcd", "unipc",
]  # fmt: skip
"""Schedulers that a job or an operator can ask for by name."""
PICTURE_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""What `output_format` may be, and the media type that it gives. WebP is lossless."""


def _json_object(value: object) -> object:
    """`loras` arrives as a JSON object, as that object in a string, or as an empty string."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return {}
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError('expected a JSON object such as {"repo-or-path": 0.8}') from None


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
Strength = Annotated[float, Field(allow_inf_nan=False)]
Loras = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=256)], Strength],
    Field(max_length=8, description="A LoRA's id → strength, several at once; 0 is off."),
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


class Params(BaseModel):
    """Parameters that every pipeline has. Unknown names are refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False, protected_namespaces=())

    seed: Seed = None
    safety_check: bool = Field(True, description="Ask for the model's safety checker, where the node has one.")

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, raw: object) -> object:
        """HTML forms and the published clients send absent optional values as empty strings."""
        if not isinstance(raw, Mapping):
            return raw
        if "" not in raw.values():
            return dict(raw)
        return {k: v for k, v in raw.items() if not (v == "" and k in cls._optional_fields())}

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
        """The lowest schema version that knows every parameter of this job which is not neutral.

        A field that a later version brings says so: `json_schema_extra={"since": 2, "neutral": <value>}`.
        """
        newest = 1
        for name, extra in self._later_fields():
            if getattr(self, name) != extra["neutral"]:
                newest = max(newest, int(str(extra["since"])))
        return newest

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


def _prompt_not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("the prompt is empty; say what to draw")
    return value


RequiredPrompt = Annotated[Prompt, BeforeValidator(lambda v: _prompt_not_blank(v) if isinstance(v, str) else v)]


class TextToImage(Params):
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


class ImageToImage(Params):
    """A picture from a picture and words; it keeps the input's size."""

    prompt: RequiredPrompt
    negative_prompt: NegativePrompt = ""
    strength: float = Field(0.8, gt=0, le=1, allow_inf_nan=False, description="Share of the steps that is run.")
    guidance_scale: Guidance = 7.5
    image_guidance_scale: ImageGuidance = 1.5
    num_inference_steps: Steps = 100
    num_images_per_prompt: Count = 1
    loras: Loras = Field(default_factory=dict)
    scheduler: SchedulerChoice = ""
    output_format: OutputFormat = "png"


class ImageToVideo(Params):
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


class Upscale(Params):
    """A picture, four times as wide and as high."""

    prompt: Prompt = ""
    num_inference_steps: Steps = 75


class UpscaleVideo(Params):
    """A clip, four times as wide and as high, with its rate, its timing and its sound."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height of an input picture, pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class ClipSize(Size):
    """An input clip, as it is seen: its rotation is applied. It has `fps` / `fps_den` frames a second on average.

    `sound`: sha256 (hex) over the packets of its sound, empty for none.
    """

    frames: int
    fps: int
    fps_den: int = 1
    sound: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What a job costs in work, the base of its price and of its expected time.

    pixel_steps: pixels × denoising steps × frames or images. output_pixels: pixels of all frames delivered.
    """

    pixel_steps: int
    output_pixels: int


@dataclass(frozen=True, slots=True)
class MediaSpec:
    """One output that a job promises. `frames` and `fps` are None for a picture; a clip's rate is `fps` / `fps_den`.

    `media_type` None: any of its kind. `sound`: sha256 (hex) over the packets of the sound that the clip has to have;
    empty for none.
    """

    kind: Literal["image", "video"]
    width: int
    height: int
    frames: int | None = None
    fps: int | None = None
    fps_den: int = 1
    sound: str = ""
    media_type: str | None = None

    @property
    def rate(self) -> Fraction | None:
        """Frames a second; None for a picture."""
        return None if self.fps is None else Fraction(self.fps, self.fps_den)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline of the network: what it takes, what it costs, what it gives.

    `family` and `version` name the parameter schema that a capability speaks, as `text-to-image/sd@1`.
    `sized_by_input`: the output's size, and so the work, follows from the input's.
    `keeps_look`: an output that looks like the input is what was asked.
    """

    name: str
    family: str
    version: int
    params: type[Params]
    inputs: tuple[str, ...]
    measure: Callable[[Any, Size | None], tuple[Work, tuple[MediaSpec, ...]]]
    sized_by_input: bool = False
    keeps_look: bool = False

    @property
    def schema(self) -> str:
        """The schema's name, `pipeline/family@version`."""
        return f"{self.name}/{self.family}@{self.version}"

    @property
    def max_input_pixels(self) -> int:
        """Most pixels of an input picture."""
        return MAX_PIXELS if self.sized_by_input else MAX_INPUT_PIXELS

    def parse(self, raw: Mapping[str, object]) -> Params:
        """Validated parameters with every default filled except the seed. Raises pydantic's ValidationError."""
        return self.params.model_validate(dict(raw))

    def parse_json(self, data: bytes) -> Params:
        """The complete parameters of a ticket or runner job. Raises UserError when they are invalid or not complete."""
        try:
            params = self.params.model_validate_json(data)
        except ValidationError as error:
            raise UserError(explain(error, self.params), code="params") from None
        if params.seed is None:
            raise UserError("the job's parameters are not complete: seed is missing", code="params", loc=("seed",))
        return params

    def work(self, params: Params, source: Size | None = None) -> Work:
        """Work units of a job; `source` is the first input's size (a ClipSize for a clip), where there is an input."""
        return self.measure(params, source)[0]

    def promises(self, params: Params, source: Size | None = None) -> tuple[MediaSpec, ...]:
        """What the job's outputs have to be, in their order."""
        return self.measure(params, source)[1]


def _text_to_image(params: TextToImage, _: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    pixels = params.width * params.height * params.num_images_per_prompt
    spec = MediaSpec("image", params.width, params.height, media_type=PICTURE_TYPES[params.output_format])
    return Work(pixels * params.num_inference_steps, pixels), (spec,) * params.num_images_per_prompt


def _image_to_image(params: ImageToImage, source: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    size = _required(source)
    steps = max(1, int(params.num_inference_steps * params.strength))
    pixels = size.pixels * params.num_images_per_prompt
    spec = MediaSpec("image", size.width, size.height, media_type=PICTURE_TYPES[params.output_format])
    return Work(pixels * steps, pixels), (spec,) * params.num_images_per_prompt


def _image_to_video(params: ImageToVideo, _: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    pixels = params.width * params.height * params.num_frames
    spec = MediaSpec("video", params.width, params.height, params.num_frames, params.fps)
    return Work(pixels * params.num_inference_steps, pixels), (spec,)


def _upscale(params: Upscale, source: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    size = _required(source)
    spec = MediaSpec("image", size.width * UPSCALE_FACTOR, size.height * UPSCALE_FACTOR)
    return Work(size.pixels * params.num_inference_steps, spec.width * spec.height), (spec,)


def _upscale_video(_: UpscaleVideo, source: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    clip = _required_clip(source)
    width, height = clip.width * UPSCALE_FACTOR, clip.height * UPSCALE_FACTOR
    spec = MediaSpec("video", width, height, clip.frames, clip.fps, clip.fps_den, clip.sound)
    return Work(clip.pixels * clip.frames, width * height * clip.frames), (spec,)


def _required_clip(source: Size | None) -> ClipSize:
    if not isinstance(source, ClipSize):
        raise UserError("this pipeline needs an input clip", code="input", loc=(VIDEO,))
    return source


def _required(source: Size | None) -> Size:
    if source is None:
        raise UserError("this pipeline needs an input picture", code="input", loc=("image",))
    return source


PIPELINES: dict[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline("text-to-image", "sd", 2, TextToImage, (), _text_to_image),
        Pipeline("image-to-image", "sd", 2, ImageToImage, ("image",), _image_to_image, sized_by_input=True),
        Pipeline("image-to-video", "svd", 1, ImageToVideo, ("image",), _image_to_video),
        Pipeline("upscale", "x4", 1, Upscale, ("image",), _upscale, sized_by_input=True, keeps_look=True),
        Pipeline(
            "upscale-video", "x4", 1, UpscaleVideo, (VIDEO,), _upscale_video, sized_by_input=True, keeps_look=True
        ),
    )
}


def pipeline_named(name: str) -> Pipeline:
    """The pipeline of that name. Raises UserError that names the nearest one."""
    try:
        return PIPELINES[name]
    except KeyError:
        raise UserError(
            f"there is no pipeline {name!r}{did_you_mean(name, PIPELINES)}", code="pipeline", loc=("pipeline",)
        ) from None


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line a field: where, what is wrong, and the nearest known name of an unknown one."""
    return "; ".join(f"{'.'.join(map(str, d['loc'])) or 'request'}: {d['msg']}" for d in details(error, model))


def details(error: ValidationError, model: type[BaseModel]) -> list[dict[str, Any]]:
    """The errors as `{"loc", "msg", "type"}`, in the form of FastAPI's 422 body, without the input's value."""
    rows = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown parameter{did_you_mean(str(item['loc'][-1]), model.model_fields)}"
        rows.append({"loc": list(item["loc"]), "msg": message, "type": item["type"]})
    return rows


def did_you_mean(name: str, known: Mapping[str, object]) -> str:
    """A hint such as "; did you mean 'fps'? (known: …)"."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (known: {', '.join(sorted(known))})"
