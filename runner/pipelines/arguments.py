"""What a diffusers class takes, and what of a job's parameters it would drop in silence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reelnet.errors import UnsupportedError
from reelnet.model_classes import EDITING, family_of
from reelnet.parameters import ImageEdit, ImageToImage, Params, TextToImage

_ALWAYS = ("prompt", "num_inference_steps", "generator", "callback_on_step_end")
"""Arguments without which a class cannot draw what a job asks for, or cannot be stopped."""
_NEEDED = {"text-to-image": (*_ALWAYS, "height", "width"), "image-to-image": (*_ALWAYS, "image")}
_OFF: dict[str, tuple[object, ...]] = {
    "guidance_scale": (0.0, 1.0),
    "negative_prompt": ("",),
    "image_guidance_scale": (0.0, 1.0),
}
"""Parameters that a class may lack, and the values, beside the default, that ask nothing of it."""


_GUIDED_TWICE = "true_cfg_scale"
_OLDER_CALLBACK = "PixArt"
"""Classes whose call tells its steps by `callback`, as diffusers did before `callback_on_step_end`."""
_ALL_STEPS = "LatentConsistencyModel"
"""Classes that run as many steps as they are told, whatever the strength."""
_FIXED: dict[str, Any] = {"use_resolution_binning": False}


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a pipeline's call that have an effect with its nets. `owner` is its class's name.

    `counts_left_out`: see `whole_steps`. `renamed`: what the class calls a job's parameter. `fixed`: arguments that are
    the same for each job.
    """

    owner: str
    names: frozenset[str]
    counts_left_out: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, pipe: Any) -> Arguments:
        """What `pipe` takes and uses."""
        taken = inspect.signature(type(pipe).__call__).parameters
        names, renamed = set(taken), {}
        net = getattr(pipe, "transformer", None)
        if _GUIDED_TWICE in names and _is_unset(taken, "guidance_scale"):  # guided by two passes under another name
            renamed["guidance_scale"] = _GUIDED_TWICE
            names.add("guidance_scale")
        elif _GUIDED_TWICE in names:  # guided by one pass: the negative prompt would be read by a second one
            names.discard("negative_prompt")
        distilled = getattr(pipe, "config", {}).get("is_distilled", False)
        embeds = getattr(getattr(net, "config", None), "guidance_embeds", True) is not False
        embeds = embeds or hasattr(type(pipe), "do_classifier_free_guidance")  # Sana is guided by two passes as well
        if distilled or not (embeds or renamed):
            names.discard("guidance_scale")
        if {"callback", "callback_steps"} <= names and type(pipe).__name__.startswith(_OLDER_CALLBACK):
            names.add("callback_on_step_end")
        # The size of a job is the size that is drawn: a class's own choice of sizes would cost another price.
        fixed = {name: value for name, value in _FIXED.items() if name in taken}
        return cls(type(pipe).__name__, frozenset(names), net is not None, renamed, fixed)

    def missing(self, pipeline: str) -> list[str]:
        """What the class lacks to serve a pipeline at all."""
        lacking = [name for name in _NEEDED[pipeline] if name not in self.names]
        steer = "image_guidance_scale" if family_of(self.owner) == EDITING else "strength"
        if pipeline == "image-to-image" and steer not in self.names:  # such a class makes pictures of its own sizes
            lacking.append(steer)
        return lacking

    def check(self, params: TextToImage | ImageEdit) -> None:
        """Raises UnsupportedError for the first parameter that the model would not use and that is not neutral."""
        for name, off in _OFF.items():
            if name in type(params).model_fields and name not in self.names:
                value = getattr(params, name)
                if value not in (_default(params, name), *off):
                    raise UnsupportedError(
                        f"{name}: a {self.owner} of this kind does not use it; leave it out", code=name, loc=(name,)
                    )

    def call(self, params: TextToImage | ImageEdit, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of a call: the job's parameters and those `wanted`, as far as the class takes them."""
        asked = {
            name: getattr(params, name) for name in (*_OFF, "prompt", "num_inference_steps") if hasattr(params, name)
        }
        if isinstance(params, ImageToImage) and self.owner.startswith(_ALL_STEPS):
            asked |= {"strength": params.strength, "num_inference_steps": _work_steps(params)}
        elif isinstance(params, ImageToImage):
            asked["strength"] = whole_steps(params.strength, params.num_inference_steps, self.counts_left_out)
        return self.named(asked | dict(wanted))

    def named(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the class takes of these, by its own names for them, with what is the same for each job."""
        given = {name: value for name, value in asked.items() if name in self.names}
        return dict(self.fixed) | {self.renamed.get(name, name): value for name, value in given.items()}


def whole_steps(strength: float, steps: int, counts_left_out: bool) -> float:
    """The strength of which a class runs `max(1, int(steps × strength))` steps, as a job's work has it.

    Classes over a UNet round the steps that they run down; those over a transformer round down the ones that they
    leave out (`counts_left_out`), so that a few-step model would run them all and see nothing of the picture.
    """
    run = max(1, int(steps * strength))
    return min(1.0, (run - 0.5 if counts_left_out else run + 0.5) / steps)


def step_callback(pipe: Any, ended: Callable[..., Any]) -> dict[str, Any]:
    """The arguments by which a call tells its steps to `ended`, which is diffusers' `callback_on_step_end`."""
    if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:
        return {"callback_on_step_end": ended}

    def told(step: int, timestep: Any, latents: Any) -> None:
        ended(pipe, step, timestep, {"latents": latents})

    return {"callback": told, "callback_steps": 1}


def _is_unset(taken: Mapping[str, inspect.Parameter], name: str) -> bool:
    """Whether a call lacks an argument, or leaves it out by default."""
    return name not in taken or taken[name].default is None


def _work_steps(params: ImageToImage) -> int:
    """The steps of a job's work."""
    return max(1, int(params.num_inference_steps * params.strength))


def _default(params: Params, name: str) -> object:
    return type(params).model_fields[name].default
