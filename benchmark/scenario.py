"""What is run: one pipeline with one model, the same work each time with another seed, prompt and picture."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from benchmark.client import JobSpec, Offer
from benchmark.inputs import draw, film
from reelnet.clips import ClipLimits
from reelnet.errors import ConfigError, StartError, UserError, printable
from reelnet.inspection import InputLimits
from reelnet.parameters import MAX_SEED, VIDEO, Params
from reelnet.pipelines import (
    ClipSize,
    MediaSpec,
    Pipeline,
    Size,
    Work,
    did_you_mean,
    explain,
    pipeline_named,
    pipeline_of,
)

SUBJECTS = (
    *("a lighthouse on a cliff", "a red fox in snow", "a city street in rain", "an old clock", "a mountain lake"),
    *("a bowl of fruit", "a steam engine", "an owl on a branch", "a desert road", "a sailing boat", "a glass bridge"),
)
HOURS = ("at dawn", "at noon", "at dusk", "by moonlight", "in fog")
STYLES = ("oil on canvas", "a photograph", "a woodcut", "watercolour", "pencil on paper", "a studio render")
TINY_PREFIX = "reelnet/tiny-"
TINY_DEFAULTS: Mapping[tuple[str, str], Mapping[str, int]] = {
    ("text-to-image", "sd"): {"width": 256, "height": 256, "num_inference_steps": 10},
    ("image-to-video", "svd"): {"width": 128, "height": 128, "num_inference_steps": 4},
    ("image-to-video", "wan"): {"width": 128, "height": 128, "num_inference_steps": 4, "num_frames": 9},
}
"""Parameters for models with random weights where none are named: seconds on a CPU instead of minutes."""
INPUT_SIZE = Size(512, 512)
"""Size of the input picture of a pipeline that takes its size from there."""
CLIP, TINY_CLIP = ClipSize(512, 288, 24, 12), ClipSize(96, 64, 8, 8)
"""Input clips, for models and for tiny ones."""
WARMUP_SEEDS = 10**9
"""Warm-up jobs have seeds from the first seed + this on: a replay of one of them is seen too.

Under 2**32: torch's generator takes the lower 32 bits of a seed, so that seed + 2**32 is the same noise.
"""
_SIZE = re.compile(r"(\d{1,5})[x×](\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks; None leaves the choice to the pipeline.

    `runs` are jobs that count, for each node that is measured by itself; with `duration_s` they go on for so long.
    """

    pipeline: Pipeline
    steps: int | None = None
    size: Size | None = None
    frames: int | None = None
    runs: int = 10
    warmup: int = 1
    concurrency: int = 1
    seed: int = 0
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A validated benchmark. `source` is the size of the input picture or clip, where the pipeline takes one."""

    request: Request
    model: str
    params: Params
    source: Size | None

    @property
    def pipeline(self) -> Pipeline:
        return self.request.pipeline

    @property
    def work(self) -> Work:
        """The work of one run."""
        return self.pipeline.work(self.params, self.source)

    @property
    def promises(self) -> tuple[MediaSpec, ...]:
        """What one run has to give."""
        return self.pipeline.promises(self.params, self.source)

    @property
    def results(self) -> int:
        """Images or clips of one run."""
        return len(self.promises)

    @property
    def noun(self) -> str:
        """What a result is called."""
        return "clips" if self.promises[0].kind == "video" else "images"

    def complete(self, seed: int) -> Params:
        """One run's parameters, with its seed and its own prompt."""
        prompt = {"prompt": prompt_of(seed)} if "prompt" in type(self.params).model_fields else {}
        return self.pipeline.parse({**self.params.model_dump(), **prompt, "seed": seed})

    def picture(self, seed: int) -> bytes | None:
        """One run's input picture, a PNG; None where it takes none."""
        return draw(self.source, seed) if self.source and not isinstance(self.source, ClipSize) else None

    def files(self, seed: int) -> dict[str, tuple[str, bytes]]:
        """One run's inputs by name: file name and bytes."""
        if isinstance(self.source, ClipSize):
            return {VIDEO: ("input.mp4", film(self.source, seed))}
        picture = self.picture(seed)
        return {"image": ("input.png", picture)} if picture else {}

    def job(self, seed: int) -> JobSpec:
        """One run's request: complete, so that a broadcaster's own defaults change nothing."""
        fields = {
            name: value for name, value in self.complete(seed).model_dump().items() if value not in ("", {}, None)
        }
        return JobSpec(self.pipeline.name, fields, self.model, self.files(seed))


def parse_pipeline(name: str) -> Pipeline:
    """The pipeline. Raises ConfigError that names the nearest one."""
    try:
        return pipeline_named(name)
    except UserError as error:
        raise ConfigError(f"--pipeline: {error.message}") from None


def parse_size(text: str) -> Size:
    """Width and height of `1024x576`. Raises ConfigError."""
    if match := _SIZE.fullmatch(text.strip().lower()):
        return Size(int(match[1]), int(match[2]))
    raise ConfigError(f"--size: expected WIDTHxHEIGHT such as 1024x576, found {printable(text, 40)!r}")


def choose_model(pipeline: Pipeline, asked: str | None, offers: Mapping[Offer, int]) -> str:
    """The model asked for, or the one that most nodes serve. Raises StartError when the pool does not serve it."""
    served = {model: nodes for (name, model), nodes in offers.items() if name == pipeline.name}
    if asked is None and served:
        return max(sorted(served), key=lambda model: served[model])
    if asked in served:
        return str(asked)
    if not served:
        others = ", ".join(sorted({name for name, _ in offers})) or "nothing"
        raise StartError(f"no node of this pool serves {pipeline.name}; it serves {printable(others, 200)}")
    hint = printable(did_you_mean(str(asked), served), 300)
    raise StartError(f"no node of this pool serves {pipeline.name} with {asked!r}{hint}")


def plan(request: Request, model: str, schema: str = "") -> Scenario:
    """The scenario; `schema` is what the model's nodes speak, and the pipeline's first family where it is not known.

    Raises ConfigError for an option that the pipeline does not take or allow.
    """
    if schema:
        request = replace(request, pipeline=_of_schema(schema, model))
    if request.seed + WARMUP_SEEDS + request.warmup > MAX_SEED:
        raise ConfigError(f"--seed: at most {MAX_SEED - WARMUP_SEEDS - request.warmup}")
    try:
        params = request.pipeline.parse(_fields(request, model))
    except ValidationError as error:
        raise ConfigError(f"{request.pipeline.name}: {explain(error, request.pipeline.params)}") from None
    return Scenario(request, model, params, _source(request, params, model))


def _of_schema(schema: str, model: str) -> Pipeline:
    try:
        return pipeline_of(schema)
    except UserError:
        raise ConfigError(f"{model} speaks {printable(schema, 100)!r}, which this version does not know") from None


def prompt_of(seed: int) -> str:
    """A prompt: the same for a seed each time, mostly another one for another."""
    rng = random.Random(seed)  # noqa: S311  (no secret)
    return f"{rng.choice(SUBJECTS)} {rng.choice(HOURS)}, {rng.choice(STYLES)}"


def _fields(request: Request, model: str) -> dict[str, object]:
    """The parameters by name: those asked, over those that suit a tiny model."""
    known = request.pipeline.params.model_fields
    fields: dict[str, object] = dict(TINY_DEFAULTS.get(_names(request), {})) if _is_tiny(model) else {}
    if "prompt" in known:
        fields["prompt"] = prompt_of(request.seed)
    if request.steps is not None:
        fields["num_inference_steps"] = request.steps
    if request.size is not None and "width" in known:
        fields |= {"width": request.size.width, "height": request.size.height}
    if request.frames is not None and VIDEO not in request.pipeline.inputs:
        if "num_frames" not in known:
            raise ConfigError(f"--frames: {request.pipeline.name} gives no frames")
        fields["num_frames"] = request.frames
    return fields


def _names(request: Request) -> tuple[str, str]:
    return request.pipeline.name, request.pipeline.family


def _is_tiny(model: str) -> bool:
    return model.startswith(TINY_PREFIX)


def _source(request: Request, params: Params, model: str) -> Size | None:
    """The input's size: the output's, where the pipeline has a size of its own."""
    if not request.pipeline.inputs:
        return None
    if VIDEO in request.pipeline.inputs:
        return _clip(request, TINY_CLIP if _is_tiny(model) else CLIP)
    width, height = getattr(params, "width", None), getattr(params, "height", None)
    if width and height:
        return Size(width, height)
    size, bounds = request.size or INPUT_SIZE, InputLimits()
    sides = (size.width, size.height)
    if min(sides) < bounds.min_side or max(sides) > bounds.max_side or size.pixels > bounds.max_pixels:
        raise ConfigError(f"--size: {size.width}x{size.height} is no size of an input picture; such as 512x512 is one")
    return size


def _clip(request: Request, usual: ClipSize) -> ClipSize:
    """The input clip: of the asked size and frames."""
    size, frames, bounds = request.size or usual, request.frames or usual.frames, ClipLimits()
    sides = (size.width, size.height)
    if (
        min(sides) < bounds.min_side
        or max(sides) > bounds.max_side
        or size.pixels > bounds.max_pixels
        or any(side % 2 for side in sides)
    ):
        raise ConfigError(f"--size: {size.width}x{size.height} is no size of an input clip; such as 512x288 is one")
    if not 2 <= frames <= bounds.max_frames:
        raise ConfigError(f"--frames: an input clip has from 2 to {bounds.max_frames}")
    return ClipSize(size.width, size.height, frames, usual.fps)
