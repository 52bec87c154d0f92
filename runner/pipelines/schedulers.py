"""Schedulers by name: the model's own, the operator's or the job's.

A name means a whole scheduler. The model gives what its net was trained with; each flag of how to draw is the name's.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from reelnet.errors import UnsupportedError, UserError
from reelnet.parameters import SchedulerName
from reelnet.warnings import SCHEDULER_SETTING, JobWarning
from runner.backend import SetupError

_PLAIN: dict[str, Any] = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_KARRAS = _PLAIN | {"use_karras_sigmas": True}
_DPM: dict[str, Any] = {
    "solver_order": 2,
    "solver_type": "midpoint",
    "use_lu_lambdas": False,
    "lower_order_final": True,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
}
_ODE, _SDE = _DPM | {"algorithm_type": "dpmsolver++"}, _DPM | {"algorithm_type": "sde-dpmsolver++"}
_UNIPC = {"solver_order": 2, "solver_type": "bh2", "predict_x0": True, "final_sigmas_type": "zero"}
_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {"variance_type": "fixed_small"}),
    "dpm++-2m": ("DPMSolverMultistepScheduler", _ODE | _PLAIN),
    "dpm++-2m-karras": ("DPMSolverMultistepScheduler", _ODE | _KARRAS),
    "dpm++-sde": ("DPMSolverMultistepScheduler", _SDE | _PLAIN),
    "euler": ("EulerDiscreteScheduler", _PLAIN | {"interpolation_type": "linear", "final_sigmas_type": "zero"}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", _PLAIN),
    "lcm": ("LCMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "tcd": ("TCDScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", _PLAIN | _UNIPC),
}
_TRAINED = "beta_schedule"
"""A model that was trained by noise levels states this; one that was trained by flow matching cannot use these."""
_FACTS = (
    "num_train_timesteps", "beta_start", "beta_end", _TRAINED, "trained_betas", "prediction_type",
    "rescale_betas_zero_snr", "clip_sample", "clip_sample_range", "thresholding", "dynamic_thresholding_ratio",
    "sample_max_value",
)  # fmt: skip
"""What the model's net was trained with, also where its own scheduler's class has it for a default."""
_STATED = (
    "timestep_spacing", "steps_offset", "set_alpha_to_one", "lambda_min_clipped", "original_inference_steps",
    "timestep_scaling",
)  # fmt: skip
"""Which steps the model is asked for: its own choice where it states one, else the named class's default."""
_QUIET = frozenset({"num_train_timesteps", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"})
"""Settings that say how another one acts, or that every scheduler has."""
_UNFIT = (ValueError, ImportError, TypeError, AttributeError, IndexError, RuntimeError)
"""What diffusers raises for a configuration that one of its schedulers cannot keep."""
_TRIAL_STEPS = 4


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

    def ignored(self, own: Any, name: str) -> JobWarning | None:
        """What the scheduler that `choose` gives does not keep of the model's own; None where it keeps all."""
        wanted = name or self.override
        if not wanted or not (found := _ignored(own, wanted)):
            return None
        text = f"the scheduler {wanted} has no {', '.join(found)}, which the model's own {type(own).__name__} sets"
        return JobWarning(SCHEDULER_SETTING, f"{text}.", "scheduler")

    def choose(self, own: Any, name: str) -> Any:
        """The scheduler that a job names, else the operator's, else `own`. Raises UnsupportedError."""
        wanted = name or self.override
        if not wanted:
            return own
        if reason := next(_reasons(own, wanted), None):
            raise UnsupportedError(
                f"a model with a {type(own).__name__} cannot use {wanted!r}{reason}",
                code="scheduler",
                loc=("scheduler",),
            )
        return _named(own, wanted)


def _ignored(own: Any, name: str) -> list[str]:
    """The settings of a model's own scheduler that the named one has no place for."""
    class_name, _ = _CLASSES[name]
    taken = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    defaults = own.config.get("_use_default_values", ())
    stated = (key for key in (*_FACTS, *_STATED) if own.config.get(key) and key not in defaults)
    return [key for key in stated if key not in taken and key not in _QUIET]


def check_steps(scheduler: Any, steps: int) -> None:
    """Raises UserError for a number of steps that a scheduler cannot make, as those of consistency models."""
    if _TRAINED not in scheduler.config:
        return
    try:
        copy.deepcopy(scheduler).set_timesteps(steps)
    except _UNFIT:
        most = scheduler.config.get("original_inference_steps")
        advice = f"ask for 1 to {most}" if most and most < steps else "ask for fewer"
        message = f"num_inference_steps: the {type(scheduler).__name__} of this model cannot make {steps}; {advice}"
        raise UserError(message, code="num_inference_steps", loc=("num_inference_steps",)) from None


@contextlib.contextmanager
def from_the_start(scheduler: Any) -> Iterator[None]:
    """While it lasts, a new schedule begins at its first step.

    Otherwise a scheduler looks for the first timestep among all of them. Rounded noise levels can begin with two equal
    timesteps, and it takes the second one.
    """
    if not hasattr(scheduler, "set_begin_index"):
        yield
        return
    set_timesteps = scheduler.set_timesteps

    @functools.wraps(set_timesteps)  # a pipeline reads the signature
    def begun(*given: Any, **named: Any) -> None:
        set_timesteps(*given, **named)
        scheduler.set_begin_index(0)

    scheduler.set_timesteps = begun
    try:
        yield
    finally:
        del scheduler.set_timesteps


def _reasons(own: Any, name: str) -> Iterator[str]:
    """Why a model with the scheduler `own` cannot use a named one, as the end of a sentence."""
    if _TRAINED not in own.config:
        yield ": it was trained by noise levels of another kind"
        return
    if own.config.get("use_flow_sigmas") or own.config.get("prediction_type") == "flow_prediction":
        yield ": it was trained by flow matching"
    if own.config.get("timestep_type") == "continuous":
        yield ": it was trained for continuous timesteps"
    try:
        named = _named(own, name)
        if not torch.allclose(named.alphas_cumprod.float(), own.alphas_cumprod.float(), atol=1e-6):
            yield ": that one cannot keep the model's noise levels"
        if not _first_step(named).isfinite().all():
            yield ": its first step divides by zero"
    except _UNFIT as error:
        yield f": {error}"


def _named(own: Any, name: str) -> Any:
    """The scheduler that a name means, for a net that was trained with `own`. Raises what is in `_UNFIT`."""
    class_name, flags = _CLASSES[name]
    kind = getattr(diffusers, class_name)
    defaults = own.config.get("_use_default_values", ())
    stated = {key: own.config[key] for key in _STATED if key in own.config and key not in defaults}
    facts = {key: own.config[key] for key in _FACTS if own.config.get(key) is not None}
    # The latents of these models have no bound, so that they are clipped only where the model says so.
    known = {"clip_sample": False} | stated | facts
    taken = inspect.signature(kind.__init__).parameters
    return kind(**{key: value for key, value in known.items() if key in taken}, **flags)


def _first_step(scheduler: Any) -> torch.Tensor:
    """Latents after one step with a net that says nothing: a scheduler of its own, as the step leaves traces."""
    latents = torch.ones(1, 4, 1, 1)
    scheduler.set_timesteps(_TRIAL_STEPS)
    timestep = scheduler.timesteps[0]
    taken = inspect.signature(scheduler.step).parameters
    chance = {"generator": torch.Generator()} if "generator" in taken else {}
    scheduler.scale_model_input(latents, timestep)
    after: torch.Tensor = scheduler.step(torch.ones_like(latents), timestep, latents, **chance, return_dict=False)[0]
    return after
