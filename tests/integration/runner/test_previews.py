"""Previews of true model code on tiny random weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reelnet.pipelines import PIPELINES
from reelnet.warnings import JobWarning
from runner.app import build
from runner.backend import RunnerJob, Sketch
from runner.worker import State
from tests.fakes.runner import Answer, RunnerClient, serving, settings
from tests.integration.runner.diffusion import EDIT, FOX, PICTURE, done, running, shown

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = [
    pytest.mark.diffusers,
    # diffusers' Euler scheduler hands a tensor to numpy in a way that numpy 2 will drop.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]
STEPS = 6
CLIP: dict[str, Any] = {"seed": 1, "width": 128, "height": 64, "num_inference_steps": STEPS, "fps": 7}
DRAWN: dict[str, Any] = {"params": FOX | {"num_inference_steps": STEPS, "width": 200}}
CHANGED: dict[str, Any] = {"pipeline": "image-to-image", "params": EDIT | {"num_inference_steps": 8}, "image": PICTURE}
FILMED: dict[str, Any] = {"pipeline": "image-to-video", "params": CLIP, "image": PICTURE}
WORDED: dict[str, Any] = {
    "pipeline": "image-to-video",
    "params": {"prompt": "a fox", "seed": 1, "width": 72, "height": 88, "num_frames": 9, "num_inference_steps": STEPS},
    "image": PICTURE,
}
FAMILIES = [
    *(pytest.param(name, DRAWN, (200, 128), STEPS, id=name) for name in ("sd", "sdxl", "sd3", "flux")),
    *(pytest.param(name, CHANGED, (160, 120), 6, id=f"{name}-i2i") for name in ("sd", "sdxl", "sd3", "flux")),
    pytest.param("instruct-pix2pix", CHANGED, (160, 120), 8, id="instruct-pix2pix"),
    pytest.param("svd", FILMED, (128, 64), STEPS, id="svd"),
    *(pytest.param(name, WORDED, (72, 88), STEPS, id=name) for name in ("wan", "wan-a14b", "wan-ti2v")),
]


def _asking(job: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return job | {"params": job["params"] | changes}


def _steps(answer: Answer) -> list[tuple[int, int, int]]:
    return [(row["index"], row["step"], row["total"]) for row in answer.named("preview")]


@pytest.mark.parametrize(("name", "job", "size", "steps"), FAMILIES)
async def test_every_family_shows_and_draws_the_same(
    tiny_models: Path, tmp_path: Path, name: str, job: dict[str, Any], size: tuple[int, int], steps: int
) -> None:
    """Previews of the asked steps come as small JPEGs of the output's shape, and its bytes are those without them."""
    async with running(tiny_models, name, tmp_path) as client:
        plain = done(await client.run(**job))
        seen = await shown(client, **_asking(job, preview_steps=2))
        assert done(await client.run(**job)).outputs == seen.outputs == plain.outputs
    assert plain.previews == []
    due = [(0, step, steps) for step in range(2, steps, 2)]
    assert _steps(seen) == [row for row in due if row in _steps(seen)], "an encoder that is behind leaves out"
    for data in seen.previews:
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("JPEG", size)
            assert np.asarray(picture).std() > 1


async def test_each_image_of_a_job_is_shown(tiny_models: Path, tmp_path: Path) -> None:
    """By its index, with the steps of its own."""
    async with running(tiny_models, "sd", tmp_path) as client:
        answer = await shown(client, **_asking(DRAWN, preview_steps=5, num_images_per_prompt=3))
    assert _steps(answer) == [row for row in ((index, 5, STEPS) for index in range(3)) if row in _steps(answer)]
    assert {total for _, _, total in _steps(answer)} == {STEPS}


@pytest.mark.parametrize("scheduler", ["euler-ancestral", "lcm", "heun"])
async def test_chance_within_a_step_is_not_touched(tiny_models: Path, tmp_path: Path, scheduler: str) -> None:
    """Schedulers that draw fresh noise draw the same."""
    job = _asking(DRAWN, scheduler=scheduler)
    async with running(tiny_models, "sd", tmp_path) as client:
        plain = done(await client.run(**job))
        assert (await shown(client, **_asking(job, preview_steps=1))).outputs == plain.outputs


async def test_sixteen_bits_are_shown(tiny_models: Path, tmp_path: Path) -> None:
    """As on a GPU; the bytes are the same with and without."""
    async with running(tiny_models, "sdxl", tmp_path, dtype="bfloat16") as client:
        plain = done(await client.run(**DRAWN))
        assert (await shown(client, **_asking(DRAWN, preview_steps=2))).outputs == plain.outputs


async def test_the_setting_says_how_large(tiny_models: Path, tmp_path: Path) -> None:
    """The longest side of a preview."""
    async with running(tiny_models, "sd", tmp_path, preview_side=100) as client:
        answer = await shown(client, **_asking(DRAWN, preview_steps=2))
    with Image.open(io.BytesIO(answer.previews[-1])) as picture:
        assert picture.size == (100, 64)


async def _synthetic(client: RunnerClient, **changes: Any) -> Answer:
    params = {"prompt": "bars", "seed": 1, "width": 512, "height": 256, "num_inference_steps": 9}
    return done(await client.run(params=params | changes))


async def test_a_stream_has_previews_between_its_lines(tmp_path: Path) -> None:
    """With the steps that were asked, before the output; a synthetic runner has them without a model."""
    app = build(settings(synthetic={"unit_s": 0.2}))
    async with serving(app, tmp_path) as client:
        await client.until(State.READY)
        answer = await _synthetic(client, preview_steps=4)
        assert (await _synthetic(client)).outputs == answer.outputs
    assert [row["step"] for row in answer.named("preview")] == [4, 8]
    names = [event["event"] for event in answer.events]
    assert names.index("preview") < names.index("output")
    whole = answer.pixels()
    apart = []
    for data in answer.previews:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.size == (256, 128)
            apart.append(float(np.abs(np.asarray(picture.resize((512, 256))).astype(int) - whole).mean()))
    assert apart[0] > apart[1], "the bars come out of grey"


class Album:
    """A reporter that keeps the sketches."""

    def __init__(self) -> None:
        self.sketches: list[Sketch] = []

    def step(self, stage: str, step: int, total: int) -> None:
        """Nothing."""

    def sketch(self, sketch: Sketch) -> None:
        self.sketches.append(sketch)

    def warn(self, warning: JobWarning) -> None:
        """Nothing."""


def _pipe(tiny_models: Path, vae: Any = None) -> Any:
    """Tiny Stable Diffusion, with another VAE."""
    import diffusers

    folder = tiny_models / "reelnet/tiny-random-sd"
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae = vae or pipe.vae
    return pipe


def _pictures(pipe: Any, policy: Any = "off") -> Any:
    """The family that serves it, under a safety policy."""
    from runner.models.safety import Safety
    from runner.pipelines.extras import Extras
    from runner.pipelines.pictures import Pictures

    return Pictures({"text-to-image": pipe}, Extras(safety=Safety(policy)))


def _job(**params: Any) -> RunnerJob:
    values = {**FOX, "num_inference_steps": 12, **params}
    return RunnerJob("j", 1, "text-to-image", PIPELINES["text-to-image"].parse(values))


def test_previews_come_nearer_to_the_picture(tiny_models: Path) -> None:
    """With a VAE that is linear as few are, the one before the last step is all but the picture, made small."""
    from tests.fakes.vae import LinearVae

    album = Album()
    pipe = _pipe(tiny_models, LinearVae(4, scaling_factor=0.18215))
    (rendered,) = _pictures(pipe).render(_job(preview_steps=1), album)
    assert [(sketch.step, sketch.total) for sketch in album.sketches] == [(step, 12) for step in range(1, 12)]
    whole = rendered.frames[0][::8, ::8].astype(float)
    alike = [float(np.corrcoef(sketch.draw().ravel(), whole.ravel())[0, 1]) for sketch in album.sketches]
    assert alike[0] < alike[5] < alike[-1]
    assert alike[-1] > 0.9


def test_an_operator_who_checks_first_shows_nothing(tiny_models: Path) -> None:
    """Under the policies that keep unsafe pictures from whoever asked."""
    pipe = _pipe(tiny_models)
    for policy, most in (("off", 2), ("flag", 2), ("blur", 0), ("refuse", 0)):
        album = Album()
        list(_pictures(pipe, policy).render(_job(preview_steps=4), album))
        assert len(album.sketches) == most, policy


def test_a_model_whose_vae_cannot_encode_is_not_shown(tiny_models: Path) -> None:
    """Its jobs go on: previews are a wish."""
    from tests.fakes.vae import LinearVae

    vae, album = LinearVae(4, scaling_factor=0.18215), Album()
    vae.encode = None
    (rendered,) = _pictures(_pipe(tiny_models, vae)).render(_job(preview_steps=1), album)
    assert rendered.frames.std() > 1
    assert album.sketches == []


def test_colours_are_fitted_once_and_for_who_asks(tiny_models: Path) -> None:
    """A job without previews encodes nothing."""
    from tests.fakes.vae import LinearVae

    vae = LinearVae(4, scaling_factor=0.18215)
    family = _pictures(_pipe(tiny_models, vae))
    asked = []
    for steps in (0, 4, 4):
        list(family.render(_job(preview_steps=steps), Album()))
        asked.append(len(vae.asked))
    assert asked[0] == 0
    assert 0 < asked[1] == asked[2]
