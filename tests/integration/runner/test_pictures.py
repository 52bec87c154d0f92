"""Text to image and image to image by every family, on tiny random weights."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from reelnet.pipelines import FAMILIES
from tests.fakes.runner import RunnerClient, picture
from tests.integration.runner.diffusion import EDIT, FOX, PICTURE, VISIBLE, apart, change, draw, running, setup_failure

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = [
    pytest.mark.diffusers,
    # diffusers' Euler scheduler hands a tensor to numpy in a way that numpy 2 will drop.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

DRAWING = ("sd", "sdxl", "sd3", "flux")
CHANGING = (*DRAWING, "instruct-pix2pix")


@pytest.fixture(params=DRAWING)
async def drawing(request: pytest.FixtureRequest, tiny_models: Path, tmp_path: Path) -> AsyncIterator[RunnerClient]:
    """A runner of each family that draws from words."""
    async with running(tiny_models, request.param, tmp_path) as client:
        yield client


@pytest.fixture(params=CHANGING)
async def changing(request: pytest.FixtureRequest, tiny_models: Path, tmp_path: Path) -> AsyncIterator[RunnerClient]:
    """A runner of each family that changes pictures."""
    async with running(tiny_models, request.param, tmp_path) as client:
        yield client


@pytest.fixture
async def sd(tiny_models: Path, tmp_path: Path) -> AsyncIterator[RunnerClient]:
    """A runner of tiny Stable Diffusion."""
    async with running(tiny_models, "sd", tmp_path) as client:
        yield client


async def test_every_family_draws_what_was_asked(drawing: RunnerClient) -> None:
    """Prompt, seed and steps change it visibly; the same job gives the same bytes; image i is that of seed + i."""
    base = await draw(drawing, num_images_per_prompt=2)
    assert base.pixels().shape == (128, 192, 3)
    assert base.pixels().std() > 10
    assert (await draw(drawing, seed=2)).outputs == base.outputs[1:]
    for other in ({"prompt": "a blue whale"}, {"seed": 3}, {"num_inference_steps": 5}):
        assert apart((await draw(drawing, **other)).pixels(), base.pixels()) > VISIBLE, other


async def test_every_family_changes_a_picture(changing: RunnerClient) -> None:
    """The picture, the words and the seed count; the output has the input's size, and image i is that of seed + i."""
    base = await change(changing, num_images_per_prompt=2)
    assert base.pixels().shape == (120, 160, 3)
    assert (await change(changing, seed=2)).outputs == base.outputs[1:]
    for other in ({"prompt": "a blue whale"}, {"seed": 3}, {"image": picture(160, 120, seed=1)}):
        assert apart((await change(changing, **other)).pixels(), base.pixels()) > VISIBLE / 2, other
    steps = [row for row in base.named("progress") if row["stage"] == "denoise"]
    assert steps[-1]["step"] == steps[-1]["total"] > 0


@pytest.mark.parametrize("name", CHANGING)
async def test_every_family_draws_in_sixteen_bits(tiny_models: Path, tmp_path: Path, name: str) -> None:
    """As on a GPU: near the picture of full precision, and the same bytes again."""
    async with running(tiny_models, name, tmp_path) as client:
        full = await change(client)
    async with running(tiny_models, name, tmp_path, dtype="bfloat16") as client:
        short = await change(client)
        assert (await change(client)).outputs == short.outputs
    assert 0 < apart(short.pixels(), full.pixels()) < full.pixels().std() / 2


@pytest.mark.parametrize(("width", "height"), [(161, 123), (64, 200), (24, 90)])
async def test_an_odd_size_is_kept(changing: RunnerClient, width: int, height: int) -> None:
    """Whatever the model's factor is, the output has the input's size to the pixel."""
    answer = await change(changing, image=picture(width, height), num_inference_steps=2)
    assert answer.pixels().shape == (height, width, 3)


async def test_a_picture_is_drawn_in_sizes_between_a_model_s_own(drawing: RunnerClient) -> None:
    """Sides are multiples of 8; a model that needs 16 draws more and the rest is cut off."""
    answer = await draw(drawing, width=136, height=72)
    assert answer.pixels().shape == (72, 136, 3)


async def test_more_strength_is_farther_from_the_picture(sd: RunnerClient) -> None:
    """Strength is the share of the steps that run, at least one."""
    weak = await change(sd, strength=0.25)
    strong = await change(sd, strength=1.0)
    least = await change(sd, strength=0.01)
    assert [answer.named("progress")[-3]["total"] for answer in (least, weak, strong)] == [1, 1, 4]
    assert apart(weak.pixels(), strong.pixels()) > VISIBLE


def test_both_pipelines_share_their_weights(tiny_models: Path) -> None:
    """Image to image costs no second model, and running it leaves text to image as it was."""
    from runner.models.digest import survey
    from runner.models.loading import load
    from tests.integration.runner.diffusion import runner_settings

    options = runner_settings(tiny_models, "sdxl")
    model = load(survey(options.folder), options)
    pipes = list(model.family._pipes.values())  # type: ignore[attr-defined]
    assert [type(pipe).__name__ for pipe in pipes] == ["StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"]
    assert all(getattr(pipes[0], part) is getattr(pipes[1], part) for part in ("unet", "vae", "text_encoder_2"))
    names = {type(processor).__name__ for processor in pipes[0].unet.attn_processors.values()}
    assert names == {"AttnProcessor2_0"}, "attention is torch's own fused one"


async def test_one_pipeline_leaves_no_trace_in_the_other(sd: RunnerClient) -> None:
    """The same job gives the same bytes before and after jobs of other pipelines and schedulers."""
    before = await draw(sd)
    await change(sd)
    await draw(sd, scheduler="euler-ancestral")
    assert (await draw(sd)).outputs == before.outputs


async def test_image_guidance_pulls_towards_the_picture(tiny_models: Path, tmp_path: Path) -> None:
    """InstructPix2Pix has a guidance of its own for the picture."""
    async with running(tiny_models, "instruct-pix2pix", tmp_path) as client:
        info = (await client.http.get("/info")).json()
        assert [row["schema"] for row in info["pipelines"]] == [FAMILIES["image-to-image", "pix2pix"].schema]
        base = await change(client)
        for other in ({"image_guidance_scale": 3.0}, {"guidance_scale": 2.0}, {"negative_prompt": "ugly"}):
            assert apart((await change(client, **other)).pixels(), base.pixels()) > VISIBLE, other


@pytest.mark.parametrize(
    ("name", "pipeline", "given"),
    [
        ("sd", "image-to-image", {"image_guidance_scale": 2.0}),
        ("flux", "text-to-image", {"negative_prompt": "ugly"}),
        ("flux", "text-to-image", {"scheduler": "ddim"}),
    ],
)
async def test_what_a_class_does_not_use_is_refused(
    tiny_models: Path, tmp_path: Path, name: str, pipeline: str, given: dict[str, Any]
) -> None:
    """A parameter with no effect is told by its name, not dropped; at its neutral value it is no matter."""
    async with running(tiny_models, name, tmp_path) as client:
        job: dict[str, Any] = {"pipeline": pipeline, "params": (EDIT if "image" in pipeline[:5] else FOX) | given}
        last = (await client.run(**job, image=PICTURE if pipeline.startswith("image") else None)).last
        assert (last["class"], last["code"]) == ("unsupported", next(iter(given)))


async def test_a_distilled_flux_takes_no_guidance(tiny_models: Path, tmp_path: Path) -> None:
    """Where the net has no input for guidance (schnell), another value than the default is refused."""
    import json
    import shutil

    folder = tmp_path / "schnell"
    shutil.copytree(tiny_models / "reelnet/tiny-random-flux", folder)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"guidance_embeds": False}))
    async with running(tiny_models, str(folder), tmp_path) as client:
        await draw(client)
        await draw(client, guidance_scale=0.0)
        assert (await client.run(params=FOX | {"guidance_scale": 3.5})).last["code"] == "guidance_scale"


async def test_no_guidance_is_one_pass(sd: RunnerClient) -> None:
    """Turbo models want guidance 0 and a step or two: the net runs once a step, and no negative prompt is read."""
    base = await draw(sd, guidance_scale=0.0, num_inference_steps=1)
    assert (await draw(sd, guidance_scale=0.0, num_inference_steps=1, negative_prompt="ugly")).outputs == base.outputs
    assert (await draw(sd, num_inference_steps=1)).outputs != base.outputs


async def test_a_scheduler_is_the_job_s_or_the_operator_s(tiny_models: Path, tmp_path: Path) -> None:
    """The operator's replaces the model's own, and the job's replaces the operator's."""
    async with running(tiny_models, "sd", tmp_path) as client:
        own = await draw(client)
        heun = await draw(client, scheduler="heun")
        assert apart(own.pixels(), heun.pixels()) > VISIBLE
    async with running(tiny_models, "sd", tmp_path, scheduler="heun") as client:
        assert (await draw(client)).outputs == heun.outputs
        assert (await draw(client, scheduler="ddim")).outputs == own.outputs


@pytest.mark.parametrize(
    "scheduler", ["ddpm", "dpm++-2m", "dpm++-2m-karras", "dpm++-sde", "euler", "lcm", "pndm", "tcd", "unipc"]
)
async def test_every_scheduler_draws(sd: RunnerClient, scheduler: str) -> None:
    """And gives the same bytes again."""
    first = await draw(sd, scheduler=scheduler)
    assert first.pixels().std() > 5
    assert (await draw(sd, scheduler=scheduler)).outputs == first.outputs


async def test_a_scheduler_that_does_not_fit_is_a_failed_setup(tiny_models: Path, tmp_path: Path) -> None:
    """A model of flow matching has no noise levels to schedule."""
    reason = await setup_failure(tiny_models, "sd3", tmp_path, scheduler="ddim")
    assert "cannot use 'ddim'" in reason
    assert reason.endswith("leave the setting out")


async def test_seeds_far_apart_draw_other_pictures(sd: RunnerClient) -> None:
    """The whole seed counts, not its lower 32 bits alone."""
    pictures = [(await draw(sd, seed=seed)).pixels() for seed in (1, 1 + 2**32, 1 + 2**33)]
    assert apart(pictures[0], pictures[1]) > VISIBLE
    assert apart(pictures[1], pictures[2]) > VISIBLE


@pytest.mark.parametrize(("asked", "found"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
async def test_a_picture_comes_in_the_format_that_was_asked(sd: RunnerClient, asked: str, found: str) -> None:
    """PNG and WebP are lossless, JPEG is near."""
    base, answer = await draw(sd), await draw(sd, output_format=asked)
    assert answer.named("output")[0]["media_type"] == f"image/{asked}"
    assert Image.open(io.BytesIO(answer.outputs[0])).format == found
    assert apart(base.pixels(), answer.pixels()) <= (8 if asked == "jpeg" else 0)


async def test_tiles_are_for_large_pictures_alone(tiny_models: Path, tmp_path: Path) -> None:
    """Under the operator's threshold nothing changes; above it the picture is nearly the same."""
    async with running(tiny_models, "sd", tmp_path) as client:
        large = await draw(client, width=1024, height=576, num_inference_steps=1)
        small = await draw(client)
    async with running(tiny_models, "sd", tmp_path, vae_tiling_pixels=512 * 512) as client:
        assert (await draw(client)).outputs == small.outputs
        tiled = await draw(client, width=1024, height=576, num_inference_steps=1)
    assert 0 < apart(tiled.pixels(), large.pixels()) < large.pixels().std()


async def test_an_offload_needs_a_gpu(tiny_models: Path, tmp_path: Path) -> None:
    """On a CPU there is nothing to move."""
    assert "offload" in await setup_failure(tiny_models, "sd", tmp_path, offload="model", device="cpu")
