"""Jobs that no node can do, through the whole path: the app hears why, and no honest node is blamed."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest

from reelnet.parameters import MOST_STEPS, SchedulerName
from tests.fakes.pool import InProcessEngine, Pool, PoolPlan, running_pool
from tests.fakes.runner import picture

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]
SD, EDIT, FLOW, BROKEN = (
    f"reelnet/tiny-random-{name}" for name in ("sd", "instruct-pix2pix", "sd3", "sd-broken")
)  # fmt: skip
FOX: dict[str, Any] = {"prompt": "a fox", "seed": 1, "guidance_scale": 1}
ROUTES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "text-to-image": ("text-to-image", SD, {"width": 64, "height": 64}),
    "image-to-image": ("image-to-image", SD, {"strength": 0.5}),
    "edit": ("image-to-image", EDIT, {}),
}
NAMES: tuple[str, ...] = get_args(SchedulerName)


@pytest.fixture(scope="module")
def models_home(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, and one whose VAE gives no numbers."""
    home = tmp_path_factory.mktemp("models")
    for name in (SD, EDIT, FLOW):
        shutil.copytree(tiny_models / name, home / name)
    shutil.copytree(tiny_models / SD, home / BROKEN)
    _break(home / BROKEN / "vae" / "diffusion_pytorch_model.safetensors")
    return home


def _break(weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = {
        name: tensor * 1e30 if name.startswith("decoder.mid") and name.endswith("weight") else tensor
        for name, tensor in load_file(weights).items()
    }
    save_file(broken, weights, metadata={"format": "pt"})


@pytest.fixture
async def pool(tmp_path: Path, models_home: Path) -> AsyncIterator[Pool]:
    """Two nodes with all of them, and a broadcaster."""
    models = [{"model": name} for name in (SD, EDIT, FLOW, BROKEN)]
    plan = PoolPlan(tmp_path, [InProcessEngine(), InProcessEngine()], models, node={"models_home": str(models_home)})
    async with running_pool(plan) as running:
        yield running


async def _post(pool: Pool, pipeline: str, model: str, **params: Any) -> tuple[int, dict[str, Any]]:
    files = {} if pipeline == "text-to-image" else {"image": ("a.png", picture(64, 64), "image/png")}
    fields = {name: str(value) for name, value in {**FOX, **params, "model_id": model}.items()}
    answer = await pool.http.post(f"/{pipeline}", **({"data": fields, "files": files} if files else {"json": fields}))
    return answer.status_code, answer.json()


def _reputations(pool: Pool) -> set[float]:
    return {pool.broadcaster.scores.reputation(record.node_id) for record in pool.broadcaster.registry.nodes()}


async def test_every_scheduler_draws_with_every_number_of_steps_or_is_the_users_error(pool: Pool) -> None:
    """At 1, 2 and 60 steps of each pipeline that takes a scheduler: a picture or a 422, and nobody is blamed."""
    for route, (pipeline, model, params) in ROUTES.items():
        for name in NAMES:
            for steps in (1, 2, 60):
                status, body = await _post(pool, pipeline, model, **params, scheduler=name, num_inference_steps=steps)
                assert (status, steps) in ((200, steps), (422, 60)), (route, name, steps, body)
                assert (status == 422) is (steps > MOST_STEPS.get(name, 200)), (route, name, steps, body)
    status, body = await _post(pool, "image-to-image", SD, scheduler="lcm")
    assert status == 422
    assert "100 (the default) is more than the scheduler lcm has; ask for 1 to 50" in str(body["detail"])
    assert _reputations(pool) == {1.0}


async def test_a_parameter_that_the_model_does_not_take_is_the_users_error(pool: Pool) -> None:
    """A model of flow matching has its own scheduler: 422 with the reason, as often as it is asked for."""
    for name in NAMES:
        status, body = await _post(pool, "text-to-image", FLOW, width=64, height=64, scheduler=name)
        assert (status, body["error"]["class"], body["error"]["code"]) == (422, "unsupported", "scheduler")
    assert _reputations(pool) == {1.0}


async def test_a_broken_picture_is_no_success(pool: Pool) -> None:
    """A VAE that gives no numbers, on both nodes: 500 that says so, nothing charged, and nobody's reputation rises."""
    before = [(record.good, record.bad) for record in pool.broadcaster.scores._records.values()]
    status, body = await _post(pool, "text-to-image", BROKEN, width=64, height=64, num_inference_steps=2)
    assert (status, body["error"]["class"], body["error"]["code"]) == (500, "node", "not_finite")
    assert [(record.good, record.bad) for record in pool.broadcaster.scores._records.values()] == before
    status, _ = await _post(pool, "text-to-image", SD, width=64, height=64, num_inference_steps=2)
    assert status == 200


async def test_forty_jobs_at_once_cost_no_reputation(pool: Pool) -> None:
    """A node that is full says so, and that is no failure: also for jobs with an input that is on its way."""
    routes = [ROUTES[name] for name in ("text-to-image", "image-to-image")] * 20
    answers = await asyncio.gather(
        *(_post(pool, pipeline, model, **params, num_inference_steps=4) for pipeline, model, params in routes)
    )
    found = {(status, body.get("error", {}).get("code")) for status, body in answers}
    assert (200, None) in found
    assert found <= {(200, None), (503, "queue_full")}
    assert _reputations(pool) == {1.0}
