"""Schedulers by name: the model's own, the operator's or the job's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers

from reelnet.errors import UnsupportedError
from reelnet.parameters import SchedulerName
from runner.backend import SetupError

_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++-2m": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": False}),
    "dpm++-2m-karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "dpm++-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "tcd": ("TCDScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
_TRAINED = "beta_schedule"
"""A model that was trained by noise levels states this; one that was trained by flow matching cannot use these."""
_FLOW = "use_flow_sigmas"
"""What a scheduler that can do both says of a model that was trained by flow matching."""


@dataclass(frozen=True, slots=True)
class Schedulers:
    """Chooses the scheduler of a job; `override` is the operator's."""

    override: SchedulerName | None = None

    def check(self, own: Any) -> None:
        """Raises SetupError when the operator's scheduler does not go with the model's own."""
        try:
            self.choose(own, "")
        except UnsupportedError as error:
            raise SetupError(f"scheduler: {error.message}; leave the setting out") from None

    def choose(self, own: Any, name: str) -> Any:
        """The scheduler that a job names, else the operator's, else `own`. Raises UnsupportedError."""
        wanted = name or self.override
        if not wanted:
            return own
        if _TRAINED not in own.config or own.config.get(_FLOW, False):
            raise UnsupportedError(
                f"a model with a {type(own).__name__} cannot use {wanted!r}", code="scheduler", loc=("scheduler",)
            )
        class_name, options = _CLASSES[wanted]
        return getattr(diffusers, class_name).from_config(own.config, **options)
