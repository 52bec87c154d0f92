"""A scheduler's name means one scheduler, whatever the model's own one is set to; with a net that is a function."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
import diffusers  # noqa: E402

from reelnet.errors import UnsupportedError  # noqa: E402
from runner.backend import SetupError  # noqa: E402
from runner.pipelines.schedulers import _CLASSES, Schedulers  # noqa: E402

pytestmark = [
    pytest.mark.diffusers,
    # diffusers' Euler scheduler hands a tensor to numpy in a way that numpy 2 will drop.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STEPPED = {"timestep_spacing": "leading", "steps_offset": 1}
RANDOM = {"ddpm", "dpm++-sde", "euler-ancestral", "lcm", "tcd"}
"""Names of which a step draws fresh noise."""
OWN = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler",
    "PNDMScheduler", "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
FLAGS: dict[str, tuple[Any, ...]] = {
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver"),
    "clip_sample": (False,),
    "disable_corrector": ([0],),
    "euler_at_final": (True,),
    "final_sigmas_type": ("sigma_min",),
    "interpolation_type": ("log_linear",),
    "lower_order_final": (False,),
    "predict_x0": (False,),
    "predictor_order": (3,),
    "skip_prk_steps": (True, False),
    "solver_order": (1, 3),
    "solver_type": ("heun", "bh1", "bh2", "midpoint", "logrho"),
    "use_exponential_sigmas": (True,),
    "use_karras_sigmas": (True,),
    "use_lu_lambdas": (True,),
    "variance_type": ("learned_range", "fixed_large"),
}
"""What a model's own scheduler may say of how to draw, with values that are not each class's default."""


def _own_schedulers(name: str) -> Iterator[Any]:
    """A class's schedulers: by default, and with each flag that it takes."""
    kind = getattr(diffusers, name)
    taken = inspect.signature(kind.__init__).parameters
    shared = {key: value for key, value in (TRAINED | STEPPED | {"clip_sample": False}).items() if key in taken}
    yield kind(**shared)
    for flag, value in [(flag, value) for flag, values in FLAGS.items() if flag in taken for value in values]:
        final = {"final_sigmas_type": "sigma_min"} if value in ("dpmsolver", "sde-dpmsolver") else {}
        with contextlib.suppress(ValueError, NotImplementedError, TypeError):  # a value of another class
            yield kind(**shared, **{flag: value}, **final)


PLAIN = diffusers.DDIMScheduler(**TRAINED, **STEPPED, clip_sample=False)


def _walk(scheduler: Any, seed: int = 5, steps: int = 6) -> Any:
    """The latents at the end, with a net that answers by a function of its latents."""
    latents = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1)) * scheduler.init_noise_sigma
    random = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    takes = "generator" in inspect.signature(scheduler.step).parameters
    for timestep in scheduler.timesteps:
        said = torch.tanh(scheduler.scale_model_input(latents, timestep))
        latents = scheduler.step(
            said, timestep, latents, **({"generator": random} if takes else {}), return_dict=False
        )[0]
    return latents


@functools.cache
def _meant(stepped: bool = True) -> dict[str, Any]:
    """What each name draws; without `stepped` the model leaves it to the scheduler's class which steps there are."""
    own = diffusers.DDIMScheduler(**TRAINED, **(STEPPED if stepped else {}), clip_sample=False)
    return {name: _walk(Schedulers().choose(own, name)) for name in _CLASSES}


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
@pytest.mark.parametrize("kind", OWN)
def test_a_name_draws_the_same_whatever_the_model_s_own_scheduler_is_set_to(kind: str) -> None:
    """Flags of how to draw are the name's: also those that exclude each other, and a solver's kind and order."""
    for own in _own_schedulers(kind):
        meant = _meant("timestep_spacing" in own.config)
        for name in _CLASSES:
            drawn = _walk(Schedulers().choose(own, name))
            assert torch.equal(drawn, meant[name]), (name, own.config)


def test_the_names_mean_what_they_say() -> None:
    """No two draw the same, those of chance alone depend on it, and Karras's noise levels are of the one so named."""
    for name, drawn in _meant().items():
        assert drawn.isfinite().all(), name
        assert not any(torch.allclose(drawn, other, atol=1e-3) for key, other in _meant().items() if key != name), name
        again = _walk(Schedulers().choose(PLAIN, name), seed=6)
        assert torch.equal(again, drawn) is (name not in RANDOM), name
        config = Schedulers().choose(PLAIN, name).config
        assert bool(config.get("use_karras_sigmas")) is name.endswith("karras")


def test_noise_levels_and_prediction_are_the_models_also_where_its_class_has_them_by_default() -> None:
    """LCM's class has Stable Diffusion's noise levels for defaults; other classes have others."""
    own = diffusers.LCMScheduler(prediction_type="v_prediction")
    for name in _CLASSES:
        chosen = Schedulers().choose(own, name)
        assert torch.allclose(chosen.alphas_cumprod, own.alphas_cumprod), name
        assert chosen.config.prediction_type == "v_prediction"


def test_latents_are_clipped_only_where_the_model_says_so() -> None:
    """DDIM's class clips by default, and latents have no bound: a model of another class says nothing of it."""
    for name in ("ddim", "ddpm"):
        assert not Schedulers().choose(diffusers.UniPCMultistepScheduler(**TRAINED), name).config.clip_sample
        assert Schedulers().choose(diffusers.DDIMScheduler(**TRAINED, clip_sample=True), name).config.clip_sample


def _zero() -> Any:
    return diffusers.DDIMScheduler(
        **TRAINED, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )


REFUSED = [
    pytest.param(_zero, "pndm", "noise levels", id="zero-snr-pndm"),
    pytest.param(_zero, "heun", "noise levels", id="zero-snr-heun"),
    pytest.param(
        lambda: diffusers.DDIMScheduler(**TRAINED, prediction_type="sample"), "pndm", "sample", id="prediction"
    ),
    pytest.param(
        lambda: diffusers.DDPMScheduler(beta_schedule="sigmoid"), "euler", "sigmoid is not implemented", id="sigmoid"
    ),
    pytest.param(lambda: diffusers.CogVideoXDDIMScheduler(**TRAINED), "ddim", "noise levels", id="shifted-snr"),
    pytest.param(
        lambda: diffusers.EulerDiscreteScheduler(**TRAINED, timestep_type="continuous", sigma_min=0.1, sigma_max=9.0),
        "ddim", "continuous", id="continuous",
    ),
    pytest.param(lambda: diffusers.FlowMatchEulerDiscreteScheduler(), "euler", "levels of another kind", id="flow"),
    pytest.param(
        lambda: diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        "unipc", "flow matching", id="flow-unipc",
    ),
    pytest.param(lambda: diffusers.EDMEulerScheduler(), "euler", "levels of another kind", id="edm"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "name", "reason"), REFUSED)
def test_a_scheduler_that_cannot_keep_the_models_training_is_refused_by_name(make: Any, name: str, reason: str) -> None:
    """As the job's parameter and, for an operator's setting, before any job; never an error in the middle of a job."""
    with pytest.raises(UnsupportedError, match=reason) as refused:
        Schedulers().choose(make(), name)
    assert refused.value.loc == ("scheduler",)
    with pytest.raises(SetupError, match=reason):
        Schedulers(name).check(make())  # type: ignore[arg-type]


def test_the_model_s_own_choice_of_steps_is_kept() -> None:
    """Its spacing and offset belong to how it was made; a distilled model's number of steps too."""
    own = diffusers.LCMScheduler(timestep_spacing="trailing", steps_offset=1, original_inference_steps=40)
    assert Schedulers().choose(own, "euler").config.timestep_spacing == "trailing"
    assert Schedulers().choose(own, "lcm").config.original_inference_steps == 40
    assert Schedulers().choose(own, "tcd").config.original_inference_steps == 40


def test_to_ask_for_a_scheduler_takes_nothing_of_the_jobs_chance() -> None:
    """The trial step before a job draws noise of its own."""
    torch.manual_seed(8)
    before = torch.random.get_rng_state()
    for name in _CLASSES:
        Schedulers().choose(PLAIN, name)
    assert torch.equal(torch.random.get_rng_state(), before)
