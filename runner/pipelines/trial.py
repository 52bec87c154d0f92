"""A small job at set-up for a class that nobody has tried: it shows whether the class draws what a job asks for.

A call's signature names parameters; whether each has an effect is seen in the picture alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from reelnet.errors import NodeError
from runner.backend import Frames, SetupError
from runner.models.numbers import as_bytes, finite_decoding
from runner.pipelines import canvas
from runner.pipelines.arguments import Arguments, step_callback, whole_steps
from runner.pipelines.family import noise

_SIDE = 128
_STEPS = 3
_STRENGTH = 0.7
_SCALE = 5.0
_TRIED = {"guidance_scale": 2.0, "negative_prompt": "a black square"}
"""Parameters without which a class can be served, and values that have to change its picture."""
_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    AssertionError,
    ImportError,
    RuntimeError,
    NodeError,
)
"""What diffusers and its models raise for a call that is not as they expect."""


def tried(pipe: Any, pipeline: str, arguments: Arguments) -> Arguments:
    """The arguments without those that changed nothing. Raises SetupError when the class does not draw as asked."""
    first = _draw(pipe, pipeline, arguments, {})
    if not _differs(first, _draw(pipe, pipeline, arguments, {"prompt": "two red cars"})):
        raise SetupError(f"{arguments.owner} draws the same whatever the prompt; no pipeline here serves it")
    if not _differs(first, _draw(pipe, pipeline, arguments, {"generator": noise(1)})):
        raise SetupError(f"{arguments.owner} draws the same whatever the seed; no pipeline here serves it")
    idle = {
        name
        for name, value in _TRIED.items()
        if name in arguments.names and not _differs(first, _draw(pipe, pipeline, arguments, {name: value}))
    }
    return replace(arguments, names=arguments.names - idle)


def _draw(pipe: Any, pipeline: str, arguments: Arguments, changed: dict[str, Any]) -> Frames:
    """One picture, shape (1, side, side, 3). Raises SetupError for another size, other steps, or no picture."""
    side = canvas.enlarged((_SIDE, _SIDE), canvas.factor(pipe))[0]
    asked: dict[str, Any] = {
        "prompt": "a fox", "negative_prompt": "", "guidance_scale": _SCALE, "num_inference_steps": _STEPS,
        "width": side, "height": side, "generator": noise(0),
    }  # fmt: skip
    steps = _STEPS
    if pipeline == "image-to-image":
        asked["image"] = Image.new("RGB", (side, side), (90, 140, 60))
        asked["strength"] = whole_steps(_STRENGTH, _STEPS, arguments.counts_left_out)
        steps = max(1, int(_STEPS * _STRENGTH))
    seen: list[int] = []

    def ended(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return tensors

    try:
        with torch.inference_mode(), finite_decoding(pipe):
            result = pipe(**arguments.named(asked | changed), **step_callback(pipe, ended), output_type="np")
        frames = as_bytes(result.images)
    except torch.OutOfMemoryError:
        raise SetupError(
            f"{arguments.owner}: its first small picture does not fit into memory; try offload: model"
        ) from None
    except _ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise SetupError(f"{arguments.owner} cannot draw a picture here: {type(error).__name__}: {reason}") from None
    if frames.shape != (1, side, side, 3) or len(seen) != steps:
        raise SetupError(
            f"{arguments.owner} drew {frames.shape[2]}×{frames.shape[1]} in {len(seen)} steps where {side}×{side} in "
            f"{steps} were asked for; no pipeline here serves it"
        )
    return frames


def _differs(one: Frames, other: Frames) -> bool:
    return not np.array_equal(one, other)
