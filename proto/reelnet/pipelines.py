"""Every pipeline: its parameters, its work units, and the media it promises.

This is the one place that knows them. The broadcaster validates and fills defaults with these models, prices with
`Pipeline.work` and checks what a node delivers against `Pipeline.promises`; a runner reads the same models again.
The parameters themselves stand in `reelnet.parameters`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import islice
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from reelnet.aliases import meant
from reelnet.errors import UserError, printable
from reelnet.frame_rates import Schedule, written_rate
from reelnet.parameters import (
    MAX_CLIP_FRAMES,
    MAX_INPUT_PIXELS,
    MAX_PIXELS,
    PICTURE_TYPES,
    UPSCALE_FACTOR,
    VIDEO,
    FrameInterpolation,
    ImageEdit,
    ImageToImage,
    ImageToVideo,
    Params,
    PromptedVideo,
    TextToImage,
    Upscale,
    UpscaleVideo,
)
from reelnet.warnings import (
    GUIDANCE_OFF,
    HIGHLIGHTS_CUT,
    NO_PREVIEW,
    NOT_USED,
    PLAIN_BRACKETS,
    PROFILE_IGNORED,
    PROMPT_CUT,
    SCHEDULER_SETTING,
    SOUND_DROPPED,
    TRACKS_DROPPED,
)

VERSION = 4
"""The newest version of the parameter schemas; versions count all of them together."""
MAX_ROWS = 20
"""Errors of one request that are told one by one; of others only their number."""
MAX_ROW_CHARS = 400
"""Characters of one error's text."""
MAX_NAME_CHARS = 60
"""Characters of a stranger's name that are compared with known ones, and shown."""
MAX_COMPARED = 256
"""Known names among which the nearest one is looked for."""
MAX_LISTED = 24
"""Known names that a hint lists."""
_OURS = "Value error, "
"""What pydantic puts before the words of a validator of ours."""
_IN_JSON = {"dict_type": "Input should be a JSON object", "list_type": "Input should be a JSON array"}
"""What pydantic says of Python's types, for those who send JSON."""


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

    `sound`: sha256 (hex) over the packets of its sound, empty for none. `last` / `last_den`: for how many seconds its
    last frame is shown; 0: for as long as the others are.
    """

    frames: int
    fps: int
    fps_den: int = 1
    sound: str = ""
    last: int = 0
    last_den: int = 1

    @property
    def rate(self) -> Fraction:
        """Frames a second on average."""
        return Fraction(self.fps, self.fps_den)

    @property
    def last_s(self) -> Fraction:
        """Seconds for which the last frame is shown."""
        return Fraction(self.last, self.last_den) or 1 / self.rate


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
    empty for none. `codec`: how a clip's pictures are coded, a `video_codec`.
    """

    kind: Literal["image", "video"]
    width: int
    height: int
    frames: int | None = None
    fps: int | None = None
    fps_den: int = 1
    sound: str = ""
    media_type: str | None = None
    codec: str = "h264"

    @property
    def most_bytes(self) -> int:
        """Bytes that its file can need, without a copied sound: pixels that no coder made smaller, and what is around.

        A picture has up to 4 bytes a pixel and an eighth of one for filters and stored blocks, and 64 KiB for what it
        says of itself; a clip 3 bytes a pixel of each frame, and 1 MiB.
        """
        pixels = self.width * self.height
        if self.frames is None:
            return 4 * pixels + pixels // 8 + 64 * 1024
        return 3 * pixels * self.frames + 2**20

    @property
    def rate(self) -> Fraction | None:
        """Frames a second; None for a picture."""
        return None if self.fps is None else Fraction(self.fps, self.fps_den)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One pipeline of the network, as one family of models has it: what it takes, what it costs, what it gives.

    `family` and `version` name the parameter schema that a capability speaks, as `text-to-image/sd@1`.
    `sized_by_input`: the output's size, and so the work, follows from the input's.
    `keeps_look`: an output that looks like the input is what was asked.
    `warns`: the codes of warnings (`reelnet.warnings`) that an answer can have.
    """

    name: str
    family: str
    params: type[Params]
    inputs: tuple[str, ...]
    measure: Callable[[Any, Size | None], tuple[Work, tuple[MediaSpec, ...]]]
    sized_by_input: bool = False
    keeps_look: bool = False
    warns: frozenset[str] = frozenset()
    version: int = VERSION

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

    def without_absent(self, raw: Mapping[str, object]) -> dict[str, object]:
        """`raw` without what was not given: null, and an empty text for what may be left out."""
        fields, foreign = self.params.model_fields, _foreign(self)
        optional = {*foreign, *(name for name, field in fields.items() if not field.is_required())}
        return {
            name: value for name, value in raw.items() if value is not None and (value != "" or name not in optional)
        }

    def without_foreign(self, raw: Mapping[str, object]) -> dict[str, object]:
        """`raw` without parameters of the pipeline's other families that ask for nothing.

        Clients that know one family send all of its defaults, whichever model they name.
        """
        foreign = _foreign(self)
        asks = (name for name, value in raw.items() if name not in foreign or _text(value) != _text(foreign[name]))
        return {name: raw[name] for name in asks}

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
    return _changed(params, source, max(1, int(params.num_inference_steps * params.strength)))


def _image_edit(params: ImageEdit, source: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    return _changed(params, source, params.num_inference_steps)


def _changed(params: ImageEdit, source: Size | None, steps: int) -> tuple[Work, tuple[MediaSpec, ...]]:
    size = _required(source)
    pixels = size.pixels * params.num_images_per_prompt
    spec = MediaSpec("image", size.width, size.height, media_type=PICTURE_TYPES[params.output_format])
    return Work(pixels * steps, pixels), (spec,) * params.num_images_per_prompt


def _image_to_video(params: ImageToVideo | PromptedVideo, _: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    size = Size(params.width, params.height)
    drawn = size.pixels * params.num_frames * params.num_inference_steps
    fps, codec = params.interpolate_to_fps, params.video_codec
    if fps is None:
        spec = MediaSpec("video", size.width, size.height, params.num_frames, params.fps, codec=codec)
        return Work(drawn, size.pixels * params.num_frames), (spec,)
    schedule = _bounded(Schedule(params.num_frames, Fraction(params.fps), fps), "interpolate_to_fps")
    spec = MediaSpec("video", size.width, size.height, schedule.count, *fps.as_integer_ratio(), codec=codec)
    return Work(drawn + size.pixels * schedule.made, size.pixels * schedule.count), (spec,)


def _upscale(params: Upscale, source: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    size = _required(source)
    media_type = PICTURE_TYPES[params.output_format]
    spec = MediaSpec("image", size.width * UPSCALE_FACTOR, size.height * UPSCALE_FACTOR, media_type=media_type)
    return Work(size.pixels * params.num_inference_steps, spec.width * spec.height), (spec,)


def _upscale_video(params: UpscaleVideo, source: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    clip = _required_clip(source)
    width, height = clip.width * UPSCALE_FACTOR, clip.height * UPSCALE_FACTOR
    rate = clip.fps, clip.fps_den
    spec = MediaSpec("video", width, height, clip.frames, *rate, clip.sound, codec=params.video_codec)
    return Work(clip.pixels * clip.frames, width * height * clip.frames), (spec,)


def _frame_interpolation(params: FrameInterpolation, source: Size | None) -> tuple[Work, tuple[MediaSpec, ...]]:
    clip = _required_clip(source)
    if clip.width % 2 or clip.height % 2:
        message = f"the clip is {clip.width}×{clip.height}; its sides have to be even"
        raise UserError(message, code="odd_size", loc=(VIDEO,))
    schedule = _bounded(schedule_of(clip, params.fps), "fps")
    rate, codec = params.fps.as_integer_ratio(), params.video_codec
    spec = MediaSpec("video", clip.width, clip.height, schedule.count, *rate, clip.sound, codec=codec)
    return Work(clip.pixels * max(1, schedule.made), clip.pixels * schedule.count), (spec,)


def schedule_of(clip: ClipSize, fps: Fraction) -> Schedule:
    """The frames of a clip at another rate."""
    return Schedule(clip.frames, clip.rate, fps, clip.last_s)


def _bounded(schedule: Schedule, name: str) -> Schedule:
    """A clip's frames at the rate that the parameter `name` asks for. Raises UserError for too many."""
    if schedule.count > MAX_CLIP_FRAMES:
        rate = written_rate(schedule.target_fps)
        message = f"at {rate} frames per second it is {schedule.count} frames; at most {MAX_CLIP_FRAMES} are made"
        raise UserError(message, code="too_long", loc=(name,))
    return schedule


def _required_clip(source: Size | None) -> ClipSize:
    if not isinstance(source, ClipSize):
        raise UserError("this pipeline needs an input clip", code="input", loc=(VIDEO,))
    return source


def _required(source: Size | None) -> Size:
    if source is None:
        raise UserError("this pipeline needs an input picture", code="input", loc=("image",))
    return source


_RESIZES = {"sized_by_input": True, "keeps_look": True}
_WORDED = frozenset({PROMPT_CUT, PLAIN_BRACKETS})
_MOVED = frozenset({GUIDANCE_OFF, NO_PREVIEW})
_DRAWN = _WORDED | _MOVED | {SCHEDULER_SETTING}
_UNUSED = frozenset({NOT_USED})
_SEEN = frozenset({PROFILE_IGNORED, HIGHLIGHTS_CUT})
_CHANGED = _DRAWN | _SEEN
_HEARD = frozenset({SOUND_DROPPED, TRACKS_DROPPED})
_ALL = (
    Pipeline("text-to-image", "sd", TextToImage, (), _text_to_image, warns=_DRAWN),
    Pipeline("image-to-image", "sd", ImageToImage, ("image",), _image_to_image, sized_by_input=True, warns=_CHANGED),
    Pipeline("image-to-image", "pix2pix", ImageEdit, ("image",), _image_edit, sized_by_input=True, warns=_CHANGED),
    Pipeline("image-to-video", "svd", ImageToVideo, ("image",), _image_to_video, warns=_MOVED | _SEEN),
    Pipeline("image-to-video", "wan", PromptedVideo, ("image",), _image_to_video, warns=_MOVED | _WORDED | _SEEN),
    Pipeline("upscale", "x4", Upscale, ("image",), _upscale, **_RESIZES, warns=_WORDED | _UNUSED | _SEEN),
    Pipeline("upscale-video", "x4", UpscaleVideo, (VIDEO,), _upscale_video, **_RESIZES, warns=_UNUSED | _HEARD),
    Pipeline(
        "frame-interpolation",
        "film",
        FrameInterpolation,
        (VIDEO,),
        _frame_interpolation,
        **_RESIZES,
        warns=_UNUSED | _HEARD,
    ),
)
FAMILIES: dict[tuple[str, str], Pipeline] = {(pipeline.name, pipeline.family): pipeline for pipeline in _ALL}
"""Every pipeline of every family, by both names."""
PIPELINES: dict[str, Pipeline] = {
    name: next(pipeline for pipeline in _ALL if pipeline.name == name)
    for name in dict.fromkeys(pipeline.name for pipeline in _ALL)
}
"""The pipelines by name, each as its first family has it."""


def pipeline_named(name: str, family: str = "") -> Pipeline:
    """The pipeline of that name, as a family has it or else the first. Raises UserError that names the nearest one."""
    if name not in PIPELINES:
        hint = f"{printable(name, MAX_NAME_CHARS)!r}{did_you_mean(name, PIPELINES)}"
        raise UserError(f"there is no pipeline {hint}", code="pipeline", loc=("pipeline",))
    if not family:
        return PIPELINES[name]
    try:
        return FAMILIES[name, family]
    except KeyError:
        message = f"{name} has no family {printable(family, MAX_NAME_CHARS)!r}"
        raise UserError(message, code="pipeline", loc=("pipeline",)) from None


def families_of(name: str) -> tuple[Pipeline, ...]:
    """A pipeline as each of its families has it, the first one first."""
    return tuple(pipeline for pipeline in _ALL if pipeline.name == name)


def pipeline_of(schema: str) -> Pipeline:
    """The pipeline that a schema's name, `pipeline/family@version`, means. Raises UserError."""
    name, _, rest = schema.partition("/")
    return pipeline_named(name, rest.partition("@")[0] or "unnamed")


@cache
def _foreign(pipeline: Pipeline) -> dict[str, object]:
    """The parameters that only other families of a pipeline have, with their defaults."""
    return {
        name: field.get_default(call_default_factory=True)
        for other in families_of(pipeline.name)
        for name, field in other.params.model_fields.items()
        if name not in pipeline.params.model_fields
    }


def _text(value: object) -> str:
    """A value as a form has it; a list or an object that holds something, which may be deep, only as such."""
    if value is None:
        return ""
    if isinstance(value, list | dict) and value:
        return "…"
    return str(value).lower() if isinstance(value, bool) else str(value)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line a field: where, what is wrong, and the nearest known name of an unknown one. Bounded as `details`."""
    return "; ".join(f"{'.'.join(map(str, d['loc'])) or 'request'}: {d['msg']}" for d in details(error, model))


def details(error: ValidationError, model: type[BaseModel], also: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The errors as `{"loc", "msg", "type"}`, in the form of FastAPI's 422 body, without the input's value.

    A `loc` is a place in the request, and each has one row. The first MAX_ROWS of them, each within MAX_ROW_CHARS and
    with printable names of at most MAX_NAME_CHARS, and a row that counts the others. The known parameters, and `also`
    what else a request may name, are listed in the first row of an unknown one.
    """
    known = (*model.model_fields, *also)
    found: dict[tuple[int | str, ...], ErrorDetails] = {}
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        found.setdefault(_place(item, model), item)
    shown = list(found.items())[:MAX_ROWS]
    unknown = [place for place, item in shown if item["type"] == "extra_forbidden"]
    rows = [_error_row(place, item, known, listed=place in unknown[:1]) for place, item in shown]
    if more := len(found) - len(rows):
        rows.append({"loc": [], "msg": f"{more} more errors; mend these first", "type": "more_errors"})
    return rows


def _place(item: ErrorDetails, model: type[BaseModel]) -> tuple[int | str, ...]:
    """Where in a request an error is: pydantic adds the branch of a type that it has tried."""
    if not item["loc"]:
        return (named,) if (named := _subject(item, model)) else ()
    first, *rest = item["loc"]
    field = model.model_fields.get(str(first))
    if field is None:
        return item["loc"]
    inside = get_origin(field.annotation) in (dict, list, tuple)
    return (first, *(part for part in rest[:1] if inside and part != ""))


def _subject(item: ErrorDetails, model: type[BaseModel]) -> str:
    """The parameter whose name begins what is said of the request as a whole; empty for none."""
    name, colon, _ = item["msg"].removeprefix(_OURS).partition(": ")
    return name if colon and name in model.model_fields else ""


def _error_row(
    place: tuple[int | str, ...], item: ErrorDetails, known: Iterable[str], *, listed: bool
) -> dict[str, Any]:
    message = _IN_JSON.get(item["type"], item["msg"].removeprefix(_OURS))
    if place and not item["loc"]:
        message = message.removeprefix(f"{place[0]}: ")
    if item["type"] == "extra_forbidden":
        message = f"unknown parameter{_parameter_hint(str(place[-1]), tuple(known), listed=listed)}"
    loc = [part if isinstance(part, int) else printable(part, MAX_NAME_CHARS) for part in place]
    return {"loc": loc, "msg": printable(message, MAX_ROW_CHARS), "type": item["type"]}


def _parameter_hint(name: str, known: tuple[str, ...], *, listed: bool) -> str:
    """As `did_you_mean`, which knows besides what other programs call a parameter."""
    if names := meant(name, known):
        return _hint(names) + (_listed(known) if listed else "")
    return did_you_mean(name, known) if listed else _nearest(name, known)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint such as "; did you mean 'fps'? (known: …)", within bounds whatever the names are, and printable."""
    names = sorted(known)
    return f"{_nearest(name, names)}{_listed(names)}"


def _listed(known: Iterable[str]) -> str:
    names = sorted(known)
    listed = ", ".join(printable(each, MAX_NAME_CHARS) for each in names[:MAX_LISTED])
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f" (known: {listed}{more})" if names else ""


def _hint(names: Iterable[str]) -> str:
    return f"; did you mean {' and '.join(repr(printable(name, MAX_NAME_CHARS)) for name in names)}?"


def _nearest(name: str, known: Iterable[str]) -> str:
    """The part of a hint that names the nearest known name; empty where none is near enough to be meant.

    Near is a name that shares three quarters of its letters in their order, or has the same ones in another.
    """
    cut, compared = name[:MAX_NAME_CHARS], list(islice(known, MAX_COMPARED))
    swapped = [each for each in compared if len(cut) > 2 and sorted(each) == sorted(cut)]
    near = swapped or difflib.get_close_matches(cut, compared, n=1, cutoff=0.75)
    return _hint(near[:1]) if near else ""
