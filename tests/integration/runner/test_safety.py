"""The safety checker, tiny and with thresholds that make it find everything or nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.runner import Answer
from tests.integration.runner.diffusion import FOX, VISIBLE, apart, draw, running, setup_failure

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers


def _with_checker(models: Path, folder: Path, finds: bool) -> str:
    """A copy of the tiny model with a checker that finds something in every picture, or in none."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 64, "patch_size": 32, "projection_dim": 16}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=small | {"vocab_size": 8}, vision_config=vision, projection_dim=16)
    )
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2.0 if finds else 2.0)  # a cosine is above -1 and below 1
    shutil.copytree(models / "reelnet/tiny-random-sd", folder)
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64).save_pretrained(folder / "feature_extractor")
    return str(folder)


def _nsfw(answer: Answer) -> Any:
    return answer.named("output")[0]["nsfw"]


async def test_unchecked_is_not_clean(tiny_models: Path, tmp_path: Path) -> None:
    """Without a checker, with the checker off, and for a job that asks for none: null; a clean picture: false."""
    async with running(tiny_models, "sd", tmp_path, safety="flag") as client:
        assert _nsfw(await draw(client)) is None
    folder = _with_checker(tiny_models, tmp_path / "model", finds=False)
    async with running(tiny_models, folder, tmp_path) as client:
        assert _nsfw(await draw(client)) is None
    async with running(tiny_models, folder, tmp_path, safety="flag") as client:
        assert _nsfw(await draw(client)) is False
        assert _nsfw(await draw(client, safety_check=False)) is None


async def test_flag_tells_and_changes_nothing(tiny_models: Path, tmp_path: Path) -> None:
    """The picture is delivered as it is."""
    folder = _with_checker(tiny_models, tmp_path / "model", finds=True)
    async with running(tiny_models, "sd", tmp_path) as client:
        base = await draw(client)
    async with running(tiny_models, folder, tmp_path, safety="flag") as client:
        flagged = await draw(client)
    assert (_nsfw(flagged), flagged.outputs) == (True, base.outputs)


@pytest.mark.parametrize("asked", [True, False])
async def test_blur_is_the_node_s_policy(tiny_models: Path, tmp_path: Path, asked: bool) -> None:
    """Whether the job asks for the check or not, nothing of the picture's detail is left."""
    folder = _with_checker(tiny_models, tmp_path / "model", finds=True)
    async with running(tiny_models, "sd", tmp_path) as client:
        base = await draw(client)
    async with running(tiny_models, folder, tmp_path, safety="blur") as client:
        blurred = await draw(client, safety_check=asked)
    assert _nsfw(blurred) is True
    assert apart(blurred.pixels(), base.pixels()) > VISIBLE
    assert blurred.pixels().std() < base.pixels().std() / 2


async def test_refuse_ends_the_job_as_refused(tiny_models: Path, tmp_path: Path) -> None:
    """It is the operator's policy, and the runner goes on."""
    folder = _with_checker(tiny_models, tmp_path / "model", finds=True)
    async with running(tiny_models, folder, tmp_path, safety="refuse") as client:
        for _ in range(2):
            answer = await client.run(params=FOX | {"safety_check": False})
            assert (answer.last["class"], answer.last["code"], answer.outputs) == ("refused", "nsfw", [])


@pytest.mark.parametrize("policy", ["blur", "refuse"])
async def test_a_promise_needs_a_checker(tiny_models: Path, tmp_path: Path, policy: str) -> None:
    """A policy that cannot be kept is a failed setup."""
    assert "has no safety_checker" in await setup_failure(tiny_models, "sd", tmp_path, safety=policy)
    assert "no checker for this pipeline" in await setup_failure(tiny_models, "svd", tmp_path, safety=policy)


async def test_a_pickled_checker_is_not_read(tiny_models: Path, tmp_path: Path) -> None:
    """Only safetensors are."""
    folder = Path(_with_checker(tiny_models, tmp_path / "model", finds=True))
    weights = folder / "safety_checker" / "model.safetensors"
    weights.rename(folder / "safety_checker" / "pytorch_model.bin")
    assert "cannot be read" in await setup_failure(tiny_models, str(folder), tmp_path, safety="blur")
