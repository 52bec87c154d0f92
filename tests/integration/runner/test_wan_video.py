"""Prompt-driven video on tiny random weights, in every published form of Wan."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from reelnet.clips import probe_clip
from reelnet.parameters import PromptedVideo
from reelnet.pipelines import FAMILIES, VERSION
from runner.diffusion import DiffusersBackend
from runner.models.tiny_lora import write_lora
from tests.fakes.runner import Answer, GatedBackend, RunnerClient, collect, picture
from tests.integration.runner.diffusion import PICTURE, VISIBLE, apart, done, runner_settings, running, setup_failure

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = [pytest.mark.diffusers]

FORMS = ["wan", "wan-a14b", "wan-ti2v"]
CLIP: dict[str, Any] = {
    "prompt": "a red fox", "seed": 1, "width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2,
}  # fmt: skip
CHANGES: dict[str, Any] = {
    "prompt": "a blue whale",
    "negative_prompt": "ugly",
    "seed": 2,
    "guidance_scale": 9.0,
    "num_inference_steps": 3,
}
OF_THE_FILE = {"width", "height", "num_frames", "fps"}
"""Parameters of which every clip's frames, size and rate are checked."""
OF_EVERY_CLIP = {"fit", "interpolate_to_fps", "video_codec", "metadata", "preview_steps", "safety", "safety_check"}
"""Parameters that no family has for itself."""
LAYERS = [f"transformer.blocks.0.{part}" for part in ("attn1.to_q", "attn1.to_v", "attn1.to_out.0", "attn2.to_q")]
WIDTH = 24


@pytest.fixture(params=FORMS)
async def runner(request: pytest.FixtureRequest, tiny_models: Path, tmp_path: Path) -> AsyncIterator[RunnerClient]:
    """A runner of each form."""
    async with running(tiny_models, request.param, tmp_path) as client:
        yield client


async def _film(client: RunnerClient, image: bytes = PICTURE, **changes: Any) -> Answer:
    return done(await client.run(pipeline="image-to-video", params=CLIP | changes, image=image))


def _frames(answer: Answer) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(answer.outputs[0])) as clip:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]).astype(int)


def _stages(answer: Answer) -> list[tuple[str, int, int]]:
    return [(row["stage"], row["step"], row["total"]) for row in answer.named("progress") if row["stage"] != "encode"]


def _pipe(client: RunnerClient) -> Any:
    return client.app.state.worker._backend._model.family._pipe


async def test_a_clip_is_as_promised(runner: RunnerClient) -> None:
    """Frames, size and rate, also where no side is a multiple that the nets draw; it is no constant and no still."""
    answer = await _film(runner, width=72, height=88, num_frames=9, fps=12)
    found = probe_clip(answer.outputs[0])
    assert (found.width, found.height, found.frames, found.fps, found.fps_den) == (72, 88, 9, 12, 1)
    frames = _frames(answer)
    assert frames.std() > 20
    assert min(apart(a, b) for a, b in itertools.pairwise(frames)) > VISIBLE
    assert answer.last["class"] == "WanImageToVideoPipeline"


async def test_a_clip_depends_on_what_was_asked(runner: RunnerClient) -> None:
    """The picture and every parameter change it, or it is refused; the same request gives the same bytes."""
    assert {*CHANGES, *OF_THE_FILE, *OF_EVERY_CLIP, "loras"} == set(PromptedVideo.model_fields)
    base = await _film(runner)
    assert (await _film(runner)).outputs == base.outputs
    assert apart(_frames(await _film(runner, picture(160, 120, seed=1))), _frames(base)) > VISIBLE
    for name, value in CHANGES.items():
        assert apart(_frames(await _film(runner, **{name: value})), _frames(base)) > VISIBLE / 4, name
    refused = await runner.run(pipeline="image-to-video", params=CLIP | {"loras": {"acme/ink": 1.0}}, image=PICTURE)
    assert refused.last["class"] == "unsupported"


async def test_each_step_and_each_latent_frame_tells(runner: RunnerClient) -> None:
    """The VAE takes one after another, the input's too; TI2V reads the one frame that there is."""
    nine = await _film(runner, num_frames=9)
    seen = 1 if _pipe(runner).config.expand_timesteps else 3
    assert _last_of_each(nine) == {"condition": (seen, seen), "denoise": (2, 2), "decode": (3, 3)}
    assert list(dict.fromkeys(stage for stage, _, _ in _stages(nine))) == ["condition", "denoise", "decode"]


def _last_of_each(answer: Answer) -> dict[str, tuple[int, int]]:
    return {stage: (step, total) for stage, step, total in _stages(answer)}


@pytest.mark.parametrize("form", ["wan", "wan-ti2v"])
async def test_tiles_tell_too(tiny_models: Path, tmp_path: Path, form: str) -> None:
    """From the operator's size on the VAE works in tiles, which every latent frame has; the picture hardly changes."""
    size = {"width": 288, "height": 64}
    async with running(tiny_models, form, tmp_path, vae_tiling_pixels=288 * 64) as client:
        tiled = await _film(client, **size)
        small = await _film(client)
    assert _last_of_each(tiled) == {
        "condition": (1, 1) if form == "wan-ti2v" else (4, 4),
        "denoise": (2, 2),
        "decode": (4, 4),
    }
    assert _last_of_each(small)["decode"] == (2, 2)
    async with running(tiny_models, form, tmp_path) as client:
        whole = await _film(client, **size)
    assert whole.outputs != tiled.outputs
    assert _frames(whole).shape == _frames(tiled).shape


@pytest.mark.parametrize("form", FORMS)
async def test_what_every_clip_has_goes_with_it(tiny_models: Path, tmp_path: Path, form: str) -> None:
    """Frames between its frames, at a size that is drawn larger, and the picture fitted as asked."""
    film = "reelnet/tiny-random-film"
    async with running(tiny_models, form, tmp_path, interpolation=film) as client:
        found = probe_clip((await _film(client, width=72, fps=8, interpolate_to_fps=16)).outputs[0])
        padded, cut = await _film(client, fit="pad"), await _film(client)
    (promised,) = FAMILIES["image-to-video", "wan"].promises(
        PromptedVideo(width=72, height=64, num_frames=5, fps=8, interpolate_to_fps=16)
    )
    assert (found.width, found.height, found.frames, found.fps) == (72, 64, promised.frames, 16)
    assert found.frames > 5
    assert apart(_frames(padded), _frames(cut)) > VISIBLE


async def test_without_guidance_there_is_one_pass(tiny_models: Path, tmp_path: Path) -> None:
    """From 1 downwards, and the negative prompt is not read then."""
    async with running(tiny_models, "wan", tmp_path) as client:
        calls: list[None] = []
        handle = _pipe(client).transformer.register_forward_hook(lambda *_: calls.append(None))
        plain = await _film(client, guidance_scale=1.0)
        assert len(calls) == 2
        assert (await _film(client, guidance_scale=0.0, negative_prompt="ugly")).outputs == plain.outputs
        assert len(calls) == 4
        await _film(client)
        assert len(calls) == 8
        handle.remove()


async def test_each_net_draws_its_part(tiny_models: Path, tmp_path: Path) -> None:
    """Of two nets the second one draws the last steps."""
    async with running(tiny_models, "wan-a14b", tmp_path) as client:
        drawn: list[str] = []
        for name in ("transformer", "transformer_2"):
            getattr(_pipe(client), name).register_forward_hook(lambda *_, name=name: drawn.append(name))
        await _film(client, guidance_scale=1.0, num_inference_steps=3)
    assert drawn == sorted(drawn)
    assert set(drawn) == {"transformer", "transformer_2"}


@pytest.mark.parametrize(("stage", "step"), [("condition", 1), ("denoise", 1), ("decode", 1)])
async def test_a_canceled_job_leaves_no_trace(tiny_models: Path, tmp_path: Path, stage: str, step: int) -> None:
    """Wherever it was, it gets no further; the VAE keeps none of it, and the next job is as on a fresh runner."""
    gate = GatedBackend(DiffusersBackend(runner_settings(tiny_models, "wan")), step=step, stage=stage)
    async with running(tiny_models, "wan", tmp_path, gate) as client:
        async with client.stream(pipeline="image-to-video", params=CLIP | {"seed": 9}, image=PICTURE) as response:
            await gate.wait_held()
            await client.http.delete("/jobs/job-1")
            gate.open()
            answer = await collect(response)
        assert answer.last["class"] == "canceled"
        assert stage not in _last_of_each(answer)
        vae = gate._inner._model.family._pipe.vae  # type: ignore[attr-defined]
        assert not [kept for kept in (*vae._feat_map, *vae._enc_feat_map) if kept is not None]
        after = await _film(client)
    async with running(tiny_models, "wan", tmp_path) as fresh:
        assert (await _film(fresh)).outputs == after.outputs


@pytest.mark.parametrize("form", FORMS)
async def test_loras(tiny_models: Path, tmp_path: Path, form: str) -> None:
    """On, off again to the byte, strength 0 is off to the byte, two together; a misfit is the user's error."""
    write_lora(tmp_path / "ink", LAYERS, WIDTH, seed=1)
    write_lora(tmp_path / "oil", LAYERS, WIDTH, seed=2)
    write_lora(tmp_path / "wide", LAYERS, WIDTH + 8, seed=3)
    write_lora(tmp_path / "deep", [*LAYERS, "transformer.blocks.7.attn1.to_q"], WIDTH, seed=4)
    loras = [{"folder": str(tmp_path / name), "id": name} for name in ("ink", "oil", "wide", "deep")]
    async with running(tiny_models, form, tmp_path, loras=loras) as client:
        base = await _film(client)
        ink = await _film(client, loras={"ink": 1.0})
        assert apart(_frames(ink), _frames(base)) > VISIBLE
        assert (await _film(client, loras={"ink": 0.0})).outputs == base.outputs
        assert (await _film(client, loras={"ink": 0.3})).outputs not in (ink.outputs, base.outputs)
        both = await _film(client, loras={"oil": 0.5, "ink": 1.0})
        assert both.outputs not in (ink.outputs, base.outputs)
        for name in ("wide", "deep"):
            answer = await client.run(pipeline="image-to-video", params=CLIP | {"loras": {name: 1.0}}, image=PICTURE)
            assert (answer.last["class"], answer.last["code"]) == ("user", "lora_misfit")
        assert (await _film(client)).outputs == base.outputs


async def test_a_lora_is_for_the_nets_that_its_operator_says(tiny_models: Path, tmp_path: Path) -> None:
    """One for each of two nets, both together as one for both."""
    write_lora(tmp_path / "ink", LAYERS, WIDTH, seed=1)
    where: tuple[dict[str, str], ...] = ({}, {"net": "transformer"}, {"net": "transformer_2"})
    loras = [
        {"folder": str(tmp_path / "ink"), "id": name, **net}
        for name, net in zip(("both", "first", "last"), where, strict=True)
    ]
    async with running(tiny_models, "wan-a14b", tmp_path, loras=loras) as client:
        base, first, last = (
            await _film(client),
            await _film(client, loras={"first": 1}),
            await _film(client, loras={"last": 1}),
        )
        assert len({base.outputs[0], first.outputs[0], last.outputs[0]}) == 3
        together = await _film(client, loras={"first": 1, "last": 1})
        assert together.outputs == (await _film(client, loras={"both": 1})).outputs
    reason = await setup_failure(tiny_models, "wan", tmp_path, loras=loras[2:])
    assert reason == "loras: last: the model has no transformer_2; leave `net` out"


async def test_vae_and_clip_keep_their_numbers(tiny_models: Path, tmp_path: Path) -> None:
    """They are float32 beside nets in bfloat16."""
    async with running(tiny_models, "wan", tmp_path, dtype="bfloat16") as client:
        assert _frames(await _film(client)).std() > 20
        kept = {name: getattr(net, "dtype", None) for name, net in _pipe(client).components.items()}
        assert kept["vae"] == kept["image_encoder"] == torch.float32
        assert kept["transformer"] == kept["text_encoder"] == torch.bfloat16
        assert (await client.http.get("/info")).json()["variant"] == "bfloat16"


async def test_info_names_the_family(runner: RunnerClient) -> None:
    """A broadcaster knows by the schema which parameters the model takes."""
    (row,) = (await runner.http.get("/info")).json()["pipelines"]
    assert row["schema"] == f"image-to-video/wan@{VERSION}"
    svd = {"seed": 1, "motion_bucket_id": 10}
    answer = await runner.http.post("/jobs", json={"job_id": "j", "pipeline": "image-to-video", "params": svd})
    assert answer.status_code == 422
    assert "unknown parameter" in answer.text


async def test_a_scheduler_of_noise_levels_is_a_failed_setup(tiny_models: Path, tmp_path: Path) -> None:
    """UniPC states them also for models of flow matching, which cannot use them."""
    for form in ("wan", "wan-a14b"):
        assert "scheduler:" in await setup_failure(tiny_models, form, tmp_path, scheduler="euler")


@pytest.mark.parametrize(
    ("form", "file", "change", "reason"),
    [
        ("wan", "vae/config.json", {"scale_factor_temporal": 8}, "its VAE groups 8 frames; jobs count on 4"),
        ("wan-a14b", "model_index.json", {"transformer_2": [None, None]}, "transformer_2: missing"),
        ("wan", "model_index.json", {"image_encoder": [None, None]}, "image_encoder: missing"),
        ("wan-ti2v", "model_index.json", {"expand_timesteps": False}, "makes clips from words alone"),
    ],
)
async def test_a_model_that_jobs_do_not_fit_is_a_failed_setup(
    tiny_models: Path, tmp_path: Path, form: str, file: str, change: dict[str, Any], reason: str
) -> None:
    """The runner stays up and says why."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_models / f"reelnet/tiny-random-{form}", folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | change))
    assert reason in await setup_failure(tiny_models, str(folder), tmp_path)
