"""What is run: one pipeline with one model, the same work each time with another seed."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from benchmark.client import JobSpec, Offer
from reelnet.errors import ConfigError, StartError, UserError, printable
from reelnet.inspection import InputLimits
from reelnet.pipelines import MAX_SEED, MediaSpec, Params, Pipeline, Size, Work, did_you_mean, explain, pipeline_named

PROMPT = "a lighthouse on a cliff at dawn, waves below, oil on canvas"
TINY_PREFIX = "reelnet/tiny-"
TINY_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "text-to-image": {"width": 512, "height": 512, "num_inference_steps": 20},
    "image-to-video": {"width": 256, "height": 256, "num_inference_steps": 4},
}
"""Parameters for models with random weights where none are named: seconds on a CPU instead of minutes."""
INPUT_SIZE = Size(512, 512)
"""Size of the input picture of a pipeline that takes its size from there."""
_SIZE = re.compile(r"(\d{1,5})[x×](\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks; None leaves the choice to the pipeline."""

    pipeline: Pipeline
    steps: int | None = None
    size: Size | None = None
    frames: int | None = None
    runs: int = 10
    warmup: int = 1
    concurrency: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A validated benchmark. `source` is the size of the input picture, where the pipeline takes one."""

    request: Request
    model: str
    params: Params
    source: Size | None
    image: bytes | None

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

    def job(self, seed: int) -> JobSpec:
        """One run's request: complete, so that a broadcaster's own defaults change nothing."""
        fields = {name: value for name, value in self.params.model_dump().items() if value not in ("", {}, None)}
        image = ("input.png", self.image) if self.image else None
        return JobSpec(self.pipeline.name, {**fields, "seed": seed}, self.model, image)


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


def plan(request: Request, model: str) -> Scenario:
    """The scenario. Raises ConfigError for an option that the pipeline does not take or allow."""
    if request.seed + request.runs + request.warmup > MAX_SEED:
        raise ConfigError(f"--seed: at most {MAX_SEED} for the last run")
    try:
        params = request.pipeline.parse(_fields(request, model))
    except ValidationError as error:
        raise ConfigError(f"{request.pipeline.name}: {explain(error, request.pipeline.params)}") from None
    source = _source(request, params)
    return Scenario(request, model, params, source, draw(source) if source else None)


def draw(size: Size) -> bytes:
    """A PNG of that size, the same each time: two gradients and a disc, so that a model has something to move."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0 : size.height, 0 : size.width]
    disc = (x - size.width * 0.6) ** 2 + (y - size.height * 0.4) ** 2 < (min(size.width, size.height) * 0.2) ** 2
    bands = (x * 255 // size.width, y * 255 // size.height, np.where(disc, 240, 60))
    out = io.BytesIO()
    Image.fromarray(np.dstack(bands).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def _fields(request: Request, model: str) -> dict[str, object]:
    """The parameters by name: those asked, over those that suit a tiny model."""
    known = request.pipeline.params.model_fields
    fields: dict[str, object] = dict(TINY_DEFAULTS.get(request.pipeline.name, {})) if _is_tiny(model) else {}
    if "prompt" in known:
        fields["prompt"] = PROMPT
    if request.steps is not None:
        fields["num_inference_steps"] = request.steps
    if request.size is not None and "width" in known:
        fields |= {"width": request.size.width, "height": request.size.height}
    if request.frames is not None:
        if "num_frames" not in known:
            raise ConfigError(f"--frames: {request.pipeline.name} gives no frames")
        fields["num_frames"] = request.frames
    return fields


def _is_tiny(model: str) -> bool:
    return model.startswith(TINY_PREFIX)


def _source(request: Request, params: Params) -> Size | None:
    """The input picture's size: the output's, where the pipeline has a size of its own."""
    if not request.pipeline.inputs:
        return None
    width, height = getattr(params, "width", None), getattr(params, "height", None)
    if width and height:
        return Size(width, height)
    size, bounds = request.size or INPUT_SIZE, InputLimits()
    sides = (size.width, size.height)
    if min(sides) < bounds.min_side or max(sides) > bounds.max_side or size.pixels > bounds.max_pixels:
        raise ConfigError(f"--size: {size.width}x{size.height} is no size of an input picture; such as 512x512 is one")
    return size
