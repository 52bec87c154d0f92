"""The estimate of the finished picture, by every scheduler that a job can ask for and a model brings along."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
import diffusers  # noqa: E402

from runner.pipelines.denoised import watched  # noqa: E402
from runner.pipelines.schedulers import _CLASSES, Schedulers  # noqa: E402

pytestmark = [
    pytest.mark.diffusers,
    # diffusers' Euler scheduler hands a tensor to numpy in a way that numpy 2 will drop.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STEPS = 8


def _own(prediction: str) -> Any:
    return diffusers.DDIMScheduler(
        **NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction
    )


BY_NAME = [
    pytest.param(lambda name=name, said=said: Schedulers().choose(_own(said), name), id=f"{name}-{said}")
    for name in _CLASSES
    for said in ("epsilon", "v_prediction")
]
FLOW: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
OF_MODELS: list[Any] = [
    pytest.param(lambda: _own("sample"), id="ddim-sample"),
    pytest.param(lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), id="sd3-flux"),
    pytest.param(lambda: diffusers.FlowMatchHeunDiscreteScheduler(), id="flow-heun"),
    pytest.param(lambda: diffusers.UniPCMultistepScheduler(**FLOW), id="wan"),
    pytest.param(lambda: diffusers.DPMSolverMultistepScheduler(**FLOW), id="flow-dpm"),
    pytest.param(
        lambda: diffusers.EulerDiscreteScheduler(
            **NOISE, prediction_type="v_prediction", timestep_type="continuous", timestep_spacing="leading",
            use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, interpolation_type="linear",
        ),
        id="svd",
    ),
]  # fmt: skip


def _levels(scheduler: Any, timestep: Any) -> tuple[Any, Any]:
    """Shares of picture and noise in latents before a step, by each kind of scheduler's own definition."""
    if not hasattr(scheduler, "sigmas"):
        kept = scheduler.alphas_cumprod[int(timestep)]
        return kept.sqrt(), (1 - kept).sqrt()
    if scheduler.step_index is None:
        scheduler._init_step_index(timestep)
    sigma = scheduler.sigmas[scheduler.step_index]
    if hasattr(scheduler, "scale_noise") or scheduler.config.get("use_flow_sigmas"):
        return 1 - sigma, sigma
    if type(scheduler).__name__.startswith(("Euler", "Heun")):
        return torch.ones(()), sigma
    return 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()


def _says(scheduler: Any, picture: Any, latents: Any, a: Any, b: Any) -> Any:
    """What a net that knows the picture says of the latents."""
    noise = (latents - a * picture) / b
    if hasattr(scheduler, "scale_noise"):
        return noise - picture
    return {
        "epsilon": noise,
        "v_prediction": (a * noise - b * picture) / (a * a + b * b).sqrt(),
        "flow_prediction": noise - picture,
        "sample": picture,
    }[scheduler.config.prediction_type]


@pytest.mark.parametrize("make", [*BY_NAME, *OF_MODELS])
def test_the_picture_that_the_net_means_is_found_at_every_step(make: Callable[[], Any]) -> None:
    """However the scheduler mixes noise in, and whatever its net predicts; also where a step draws fresh noise."""
    torch.manual_seed(3)
    picture, scheduler = torch.randn(1, 4, 6, 6), make()
    scheduler.set_timesteps(STEPS)
    latents = torch.randn_like(picture) * getattr(scheduler, "init_noise_sigma", 1.0)
    with watched(scheduler) as denoising:
        for timestep in scheduler.timesteps:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(latents, timestep)
            said = _says(scheduler, picture, latents, *_levels(scheduler, timestep))
            latents = scheduler.step(said, timestep, latents, return_dict=False)[0]
            found = denoising.picture(lambda tensor: tensor[0])
            assert found is not None
            assert torch.allclose(found, picture[0], atol=1e-4), timestep


@pytest.mark.parametrize("make", [*BY_NAME, *OF_MODELS])
def test_the_steps_are_those_of_a_scheduler_that_nobody_watches(make: Callable[[], Any]) -> None:
    """To the bit, and so is the chance that is left."""

    def walk(watching: bool) -> tuple[Any, Any]:
        torch.manual_seed(4)
        scheduler = make()
        scheduler.set_timesteps(STEPS)
        latents = torch.randn(1, 4, 6, 6) * getattr(scheduler, "init_noise_sigma", 1.0)
        random = torch.Generator().manual_seed(9)
        given = {"generator": random} if "generator" in inspect.signature(scheduler.step).parameters else {}
        with watched(scheduler) if watching else contextlib.nullcontext() as denoising:
            for timestep in scheduler.timesteps:
                if hasattr(scheduler, "scale_model_input"):
                    scheduler.scale_model_input(latents, timestep)
                latents = scheduler.step(torch.tanh(latents), timestep, latents, **given, return_dict=False)[0]
                if denoising is not None:
                    denoising.picture(lambda tensor: tensor[0])
        return latents, random.get_state()

    (unwatched, chance), (seen, left) = walk(watching=False), walk(watching=True)
    assert torch.equal(unwatched, seen)
    assert torch.equal(chance, left)


def test_a_watched_scheduler_shows_its_own_signature_and_is_itself_again() -> None:
    """Pipelines read which arguments a step takes."""
    scheduler = _own("epsilon")
    signature = inspect.signature(scheduler.step)
    with watched(scheduler):
        assert inspect.signature(scheduler.step) == signature
    assert "step" not in vars(scheduler)


def test_what_is_not_known_is_not_guessed() -> None:
    """Another prediction, a net that says more than one thing, a part that nobody can pick, no step yet."""
    scheduler, latents = _own("epsilon"), torch.randn(1, 4, 6, 6)
    scheduler.set_timesteps(STEPS)
    with watched(scheduler) as denoising:
        assert denoising.picture(lambda tensor: tensor[0]) is None
        timestep = scheduler.timesteps[0]
        scheduler.step(latents, timestep, latents)
        assert denoising.picture(lambda tensor: None) is None
        denoising.saw(torch.randn(1, 8, 6, 6), timestep, latents)
        assert denoising.picture(lambda tensor: tensor[0]) is None
        scheduler.register_to_config(prediction_type="another")
        denoising.saw(latents, timestep, latents)
        assert denoising.picture(lambda tensor: tensor[0]) is None
