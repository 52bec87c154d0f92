"""Every scheduler with every number of steps, on a net that is a function: numbers come out, or a user's error."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
import diffusers  # noqa: E402

from reelnet.errors import UnsupportedError, UserError  # noqa: E402
from reelnet.parameters import MOST_STEPS  # noqa: E402
from runner.pipelines.schedulers import _CLASSES, Schedulers, check_steps, from_the_start  # noqa: E402

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]
TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
ZERO = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
OWN: dict[str, Any] = {
    "sd": diffusers.PNDMScheduler(**TRAINED, skip_prk_steps=True, set_alpha_to_one=False),
    "sdxl": diffusers.EulerDiscreteScheduler(**TRAINED, timestep_spacing="leading"),
    "zero-snr": diffusers.DDIMScheduler(**TRAINED, **ZERO, clip_sample=False),
    "lcm": diffusers.LCMScheduler(**TRAINED),
    "karras": diffusers.DPMSolverMultistepScheduler(**TRAINED, use_karras_sigmas=True),
    "svd": diffusers.EulerDiscreteScheduler(
        **TRAINED, **{**ZERO, "timestep_spacing": "leading"}, use_karras_sigmas=True, timestep_type="continuous",
        sigma_min=0.002, sigma_max=700.0,
    ),
    "sd3": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "wan": diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    ),
}  # fmt: skip
"""The schedulers that models of each family come with."""
KEPT = {"sd", "sdxl", "lcm", "karras"}
"""Those whose models every named scheduler can draw."""
THOROUGH = {"sd", "zero-snr"}
FEW = (1, 2, 3, 4, 19, 20, 21, 50, 51, 60, 200)


def _walk(scheduler: Any, steps: int) -> tuple[int, Any]:
    """How often the net was asked, and the latents at the end."""
    with from_the_start(scheduler):
        scheduler.set_timesteps(steps)
    latents = torch.ones(1, 1, 1, 2) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    takes = "generator" in inspect.signature(scheduler.step).parameters
    chance = {"generator": torch.Generator().manual_seed(5)} if takes else {}
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        latents = scheduler.step(torch.tanh(scaled), timestep, latents, **chance, return_dict=False)[0]
    return len(scheduler.timesteps), latents


@pytest.mark.parametrize("name", ["", *_CLASSES])
@pytest.mark.parametrize("own", OWN)
def test_every_number_of_steps_draws_or_is_the_users_error(own: str, name: str) -> None:
    """A named scheduler is refused for a model, or for a number of steps; with all others latents are numbers.

    The rounded noise levels of `dpm++-2m-karras` on a model of zero terminal SNR begin with two equal timesteps.
    """
    drawn: list[int] = []
    refused: list[int] = []
    for steps in range(1, 61) if own in THOROUGH else FEW:
        model = type(OWN[own]).from_config(OWN[own].config)
        try:
            scheduler = Schedulers().choose(model, name)
            check_steps(scheduler, steps)
        except UnsupportedError:
            assert own not in KEPT
            return
        except UserError:
            refused.append(steps)
            continue
        asked, latents = _walk(scheduler, steps)
        assert asked >= steps
        assert latents.isfinite().all(), steps
        drawn.append(steps)
    assert drawn[0] == 1
    assert all(steps > 50 for steps in refused)
    assert drawn[-1] == (50 if name in MOST_STEPS or (own, name) == ("lcm", "") else 60 if own in THOROUGH else 200)


def test_the_rule_of_each_name_is_the_schedulers_own() -> None:
    """What is refused before a node is asked is what the scheduler cannot do, and nothing else."""
    for name in _CLASSES:
        scheduler = Schedulers().choose(OWN["sd"], name)
        most = MOST_STEPS.get(name, 200)
        check_steps(scheduler, most)
        if most < 200:
            with pytest.raises(UserError, match="cannot make 51; ask for 1 to 50") as refused:
                check_steps(scheduler, most + 1)
            assert refused.value.loc == ("num_inference_steps",)


def test_a_setting_that_a_named_scheduler_does_not_have_is_told() -> None:
    """Thresholding is DDIM's, and Euler has none; what a name means on purpose is not told."""
    model = diffusers.DDIMScheduler(**TRAINED, thresholding=True, clip_sample=False)
    warning = Schedulers().ignored(model, "euler")
    assert warning
    assert (warning.code, warning.parameter) == ("scheduler_setting", "scheduler")
    assert "thresholding" in warning.message
    assert Schedulers().ignored(model, "ddim") is None
    assert Schedulers().ignored(model, "") is None
    for name in _CLASSES:
        assert Schedulers().ignored(OWN["sd"], name) is None, name
        assert Schedulers().ignored(OWN["karras"], name) is None, name


def test_a_scheduler_is_as_it_was_afterwards() -> None:
    """The schedule that begins at its start is a job's."""
    scheduler = diffusers.EulerDiscreteScheduler(**TRAINED)
    with from_the_start(scheduler):
        scheduler.set_timesteps(3)
        assert scheduler.begin_index == 0
    scheduler.set_timesteps(3)
    assert scheduler.begin_index is None
    assert "set_timesteps" not in vars(scheduler)
