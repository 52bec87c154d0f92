"""The safety checker, tiny and with thresholds that make it find everything or nothing."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.fakes.media import Clip
from tests.fakes.runner import Answer, RunnerClient, parts, picture
from tests.integration.runner.diffusion import FOX, PICTURE, VISIBLE, apart, done, draw, running, setup_failure

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers
CLIP: dict[str, Any] = {"seed": 1, "width": 128, "height": 64, "num_inference_steps": 1, "num_frames": 12}


def _with_checker(models: Path, folder: Path, finds: bool, name: str = "sd", variant: str | None = None) -> str:
    """A copy of a tiny model with a checker that finds something in every picture, or in none."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = small | {"image_size": 64, "patch_size": 32, "projection_dim": 16}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=small | {"vocab_size": 8}, vision_config=vision, projection_dim=16)
    )
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2.0 if finds else 2.0)  # a cosine is above -1 and below 1
    shutil.copytree(models / f"reelnet/tiny-random-{name}", folder)
    checker.save_pretrained(folder / "safety_checker", variant=variant)
    beside = folder / ("feature_extractor" if name == "sd" else "safety_checker")
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=64).save_pretrained(beside)
    return str(folder)


def _nsfw(answer: Answer) -> Any:
    return answer.named("output")[0]["nsfw"]


async def _features(client: RunnerClient) -> dict[str, list[str]]:
    info = (await client.http.get("/info")).json()
    return {row["pipeline"]: [name for name in row["features"] if name == "safety"] for row in info["pipelines"]}


async def _unsupported(client: RunnerClient, **order: Any) -> None:
    answer = await client.http.post("/jobs", files=parts(**order))
    assert (answer.status_code, answer.json()["class"]) == (422, "unsupported"), answer.text
    assert answer.json()["detail"]["code"] == "safety"


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


async def test_a_job_may_ask_for_more_than_the_node(tiny_models: Path, tmp_path: Path) -> None:
    """Never for less. What it wants refused is blurred, for its broadcaster to withhold, and drawn by no other node."""
    folder = _with_checker(tiny_models, tmp_path / "model", finds=True)
    async with running(tiny_models, folder, tmp_path, safety="flag") as client:
        assert await _features(client) == {"text-to-image": ["safety"], "image-to-image": ["safety"]}
        plain, flagged = await draw(client), await draw(client, safety="flag", safety_check=False)
        assert (_nsfw(flagged), flagged.outputs) == (True, plain.outputs)
        blurred, refused = await draw(client, safety="blur"), await draw(client, safety="refuse")
        assert (_nsfw(blurred), _nsfw(refused), blurred.outputs) == (True, True, refused.outputs)
        assert blurred.pixels().std() < plain.pixels().std() / 2
    async with running(tiny_models, folder, tmp_path, safety="blur") as client:
        assert (await draw(client, safety="flag")).outputs == blurred.outputs


@pytest.mark.parametrize(("model", "policy"), [("sd", "off"), ("sd", "flag"), ("svd", "flag")])
async def test_a_demand_needs_a_checker(tiny_models: Path, tmp_path: Path, model: str, policy: str) -> None:
    """Without one, or with the checker off, such a job is not begun: its result would count as checked."""
    folder = _with_checker(tiny_models, tmp_path / "model", finds=False) if policy == "off" else model
    async with running(tiny_models, folder, tmp_path, safety=policy) as client:
        assert not any((await _features(client)).values())
        for asked in ("flag", "blur", "refuse"):
            if model == "sd":
                await _unsupported(client, params=FOX | {"safety": asked})
            else:
                await _unsupported(client, pipeline="image-to-video", params=CLIP | {"safety": asked}, image=PICTURE)


@pytest.mark.parametrize("name", ["esrgan", "film"])
async def test_what_is_made_of_a_clip_is_not_checked(tiny_models: Path, tmp_path: Path, name: str) -> None:
    """Upscalers and FILM have no checker, whatever lies beside them: a policy of the node's is a failed setup."""
    assert "no checker for this pipeline" in await setup_failure(tiny_models, name, tmp_path, safety="blur")
    async with running(tiny_models, name, tmp_path, safety="flag") as client:
        clip = Clip(64, 64, frames=3).encode()
        pipeline = "upscale-video" if name == "esrgan" else "frame-interpolation"
        await _unsupported(client, pipeline=pipeline, params={"seed": 1, "safety": "flag"}, video=clip)
        if name == "esrgan":
            await _unsupported(client, pipeline="upscale", params={"seed": 1, "safety": "flag"}, image=picture())


async def _film(client: RunnerClient, **changes: Any) -> Answer:
    return done(await client.run(pipeline="image-to-video", params=CLIP | changes, image=PICTURE))


def _frames(answer: Answer) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(answer.outputs[0])) as clip:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]).astype(int)


def _detail(frame: np.ndarray[Any, Any]) -> float:
    """How much neighbouring pixels differ."""
    return float(np.abs(np.diff(frame, axis=1)).mean())


async def test_a_clip_is_checked_by_the_checker_beside_its_model(tiny_models: Path, tmp_path: Path) -> None:
    """Told, blurred in every frame, or refused, as a picture is."""
    folder = _with_checker(tiny_models, tmp_path / "model", True, "svd")
    async with running(tiny_models, folder, tmp_path, safety="flag") as client:
        assert await _features(client) == {"image-to-video": ["safety"]}
        plain, blurred = await _film(client), await _film(client, safety="blur")
    assert (_nsfw(plain), _nsfw(blurred)) == (True, True)
    assert len(_frames(plain)) == CLIP["num_frames"]
    for before, after in zip(_frames(plain), _frames(blurred), strict=True):
        assert _detail(after) < _detail(before) / 4
    async with running(tiny_models, folder, tmp_path, safety="refuse") as client:
        answer = await client.run(pipeline="image-to-video", params=CLIP, image=PICTURE)
        assert (answer.last["class"], answer.last["code"], answer.outputs) == ("refused", "nsfw", [])


@pytest.mark.parametrize("policy", ["blur", "refuse"])
@pytest.mark.parametrize("name", ["sd", "svd"])
async def test_a_promise_needs_a_checker(tiny_models: Path, tmp_path: Path, name: str, policy: str) -> None:
    """A policy that cannot be kept is a failed setup."""
    assert "has no safety_checker" in await setup_failure(tiny_models, name, tmp_path, safety=policy)


async def test_a_checker_may_be_stored_in_half_its_size(tiny_models: Path, tmp_path: Path) -> None:
    """As `models pull --variant fp16` stores it, when the whole model is."""
    folder = _with_checker(tiny_models, tmp_path / "model", finds=True, variant="fp16")
    async with running(tiny_models, folder, tmp_path, safety="flag") as client:
        assert _nsfw(await draw(client)) is True


async def test_a_pickled_checker_is_not_read(tiny_models: Path, tmp_path: Path) -> None:
    """Only safetensors are."""
    folder = Path(_with_checker(tiny_models, tmp_path / "model", finds=True))
    weights = folder / "safety_checker" / "model.safetensors"
    weights.rename(folder / "safety_checker" / "pytorch_model.bin")
    assert "cannot be read" in await setup_failure(tiny_models, str(folder), tmp_path, safety="blur")
