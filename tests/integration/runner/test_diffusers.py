"""True model code on tiny random weights."""

from __future__ import annotations

import contextlib
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

from reelnet.pipelines import PIPELINES
from runner.app import build
from runner.diffusion import DiffusersBackend
from runner.settings import RunnerSettings
from runner.worker import State
from tests.fakes.runner import GatedBackend, RunnerClient, collect, picture, serving

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = [
    pytest.mark.diffusers,
    # diffusers' Euler scheduler hands a tensor to numpy in a way that numpy 2 will drop.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

FOX: dict[str, Any] = {"prompt": "a red fox", "seed": 1, "width": 192, "height": 128, "num_inference_steps": 3}
CLIP: dict[str, Any] = {"seed": 1, "width": 128, "height": 64, "num_inference_steps": 2, "fps": 7}
PICTURE = picture(160, 120)
VISIBLE = 1.0
"""Mean difference of two pictures, of 255, that nobody calls rounding."""


@pytest.fixture
def models(tiny_models: Path) -> Path:
    """The tiny models."""
    return tiny_models


@contextlib.asynccontextmanager
async def _runner(
    models: Path, name: str, folder: Path, gate: GatedBackend | None = None
) -> AsyncIterator[RunnerClient]:
    async with serving(build(_settings(models, name), gate), folder) as client:
        health = await client.until(State.READY, State.SETUP_FAILED)
        assert health["state"] == "READY", health["reason"]
        yield client


def _settings(models: Path, name: str, **values: Any) -> RunnerSettings:
    return RunnerSettings(
        model=f"reelnet/tiny-random-{name}", models_home=models, stop_timeout_s=60, tick_s=0.5, **values
    )


@pytest.fixture
async def sd(models: Path, tmp_path: Path) -> AsyncIterator[RunnerClient]:
    """A runner of tiny Stable Diffusion."""
    async with _runner(models, "sd", tmp_path) as client:
        yield client


@pytest.fixture
async def svd(models: Path, tmp_path: Path) -> AsyncIterator[RunnerClient]:
    """A runner of tiny Stable Video Diffusion."""
    async with _runner(models, "svd", tmp_path) as client:
        yield client


def _frames(data: bytes) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(data)) as clip:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]).astype(int)


def _apart(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    return float(np.abs(a - b).mean())


async def test_a_picture_depends_on_what_was_asked(sd: RunnerClient) -> None:
    """Prompt, seed, steps, guidance and negative prompt each change it visibly; the same request does not."""
    base = await sd.run(params=FOX)
    assert base.last["event"] == "done", base.last
    assert base.pixels().shape == (128, 192, 3)
    assert base.pixels().std() > 20
    assert (await sd.run(params=FOX)).outputs == base.outputs
    changes = ({"prompt": "a blue whale"}, {"seed": 2}, {"num_inference_steps": 4}, {"guidance_scale": 2.0})
    for change in (*changes, {"negative_prompt": "ugly"}):
        other = await sd.run(params=FOX | change)
        assert _apart(base.pixels(), other.pixels()) > VISIBLE, change


async def test_one_image_alone_is_the_image_of_many(sd: RunnerClient) -> None:
    """Image i of N is, to the byte, the image of seed + i; progress counts all of them."""
    three = await sd.run(params=FOX | {"num_images_per_prompt": 3})
    alone = await sd.run(params=FOX | {"seed": 3})
    assert alone.outputs[0] == three.outputs[2]
    steps = [(row["step"], row["total"]) for row in three.named("progress") if row["stage"] == "denoise"]
    assert steps == sorted(set(steps)), "what a slow reader missed is left out, nothing is told twice or backwards"
    assert (steps[-1], {total for _, total in steps}) == ((9, 9), {9})
    assert [(r["step"], r["total"]) for r in three.named("progress") if r["stage"] == "decode"] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]


async def test_a_canceled_job_leaves_no_trace(models: Path, tmp_path: Path) -> None:
    """Health answers while a step is held; after the cancel the next job is as on a fresh runner."""
    gate = GatedBackend(DiffusersBackend(_settings(models, "sd")))
    async with _runner(models, "sd", tmp_path, gate) as client:
        async with client.stream(params=FOX | {"seed": 9}) as response:
            await gate.wait_held()
            assert (await client.health())["step"] == {"stage": "denoise", "step": 1, "total": 3}
            await client.http.delete("/jobs/job-1")
            gate.open()
            assert (await collect(response)).last["class"] == "canceled"
        after = await client.run(params=FOX)
    async with _runner(models, "sd", tmp_path) as fresh:
        assert (await fresh.run(params=FOX)).outputs == after.outputs


async def test_no_word_in_a_prompt_is_a_fault(sd: RunnerClient) -> None:
    """Faults belong to the synthetic backend."""
    assert (await sd.run(params=FOX | {"prompt": "!fail node"})).last["event"] == "done"


async def test_loras_are_unsupported_where_there_are_none(sd: RunnerClient) -> None:
    """They are refused, not dropped in silence."""
    assert (await sd.run(params=FOX | {"loras": {"acme/style": 0.8}})).last["class"] == "unsupported"


async def test_out_of_memory_is_told_and_survived(sd: RunnerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator's error is class `oom`; the runner is ready for the next job."""
    from runner.pipelines.pictures import Pictures

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(Pictures, "_draw", full)
        assert (await sd.run(params=FOX)).last["class"] == "oom"
    assert (await sd.run(params=FOX)).last["event"] == "done"


async def test_a_clip_has_its_frames_and_moves(svd: RunnerClient) -> None:
    """14 frames at the asked rate, neither constant nor a still."""
    answer = await svd.run(pipeline="image-to-video", params=CLIP, image=PICTURE)
    assert answer.last["event"] == "done", answer.last
    with av.open(io.BytesIO(answer.outputs[0])) as clip:
        assert clip.streams.video[0].average_rate == 7
    frames = _frames(answer.outputs[0])
    assert frames.shape == (14, 64, 128, 3)
    assert frames.std() > 20
    assert min(_apart(a, b) for a, b in itertools.pairwise(frames)) > VISIBLE
    stages = [(row["stage"], row["step"], row["total"]) for row in answer.named("progress")]
    assert stages[:4] == [("denoise", 1, 2), ("denoise", 2, 2), ("decode", 1, 2), ("decode", 2, 2)]
    assert answer.last["class"] == "StableVideoDiffusionPipeline"


async def test_a_clip_depends_on_what_was_asked(svd: RunnerClient) -> None:
    """Picture, seed, steps and each condition change it; the same request gives the same bytes."""
    job: dict[str, Any] = {"pipeline": "image-to-video", "params": CLIP, "image": PICTURE}
    base = await svd.run(**job)
    assert (await svd.run(**job)).outputs == base.outputs
    frames = _frames(base.outputs[0])
    assert _apart(frames, _frames((await svd.run(**job | {"image": picture(160, 120, seed=1)})).outputs[0])) > VISIBLE
    conditions = ({"motion_bucket_id": 10}, {"noise_aug_strength": 1.0}, {"max_guidance_scale": 6.0})
    for change in ({"seed": 2}, {"num_inference_steps": 3}, {"decode_chunk_size": 4}, *conditions):
        other = await svd.run(**job | {"params": CLIP | change})
        assert _apart(frames, _frames(other.outputs[0])) > VISIBLE, change


async def test_a_clip_can_be_canceled_while_it_is_decoded(models: Path, tmp_path: Path) -> None:
    """Each chunk that is decoded is a cancel point."""
    gate = GatedBackend(DiffusersBackend(_settings(models, "svd")), step=1, stage="decode")
    async with _runner(models, "svd", tmp_path, gate) as client:
        async with client.stream(pipeline="image-to-video", params=CLIP, image=PICTURE) as response:
            await gate.wait_held()
            await client.http.delete("/jobs/job-1")
            gate.open()
            answer = await collect(response)
        assert answer.last["class"] == "canceled"
        assert not [row for row in answer.named("progress") if row["stage"] == "decode"]


async def test_info_is_the_model_s(sd: RunnerClient) -> None:
    """Digest as its card has it, licence, class and library versions."""
    info = (await sd.http.get("/info")).json()
    assert info["model"] == "reelnet/tiny-random-sd"
    assert info["variant"] == "float32"
    assert info["licence"] == {"id": "Apache-2.0", "commercial": "yes"}
    assert info["pipelines"] == [
        {"pipeline": name, "schema": PIPELINES[name].schema, "class": kind, "features": []}
        for name, kind in (
            ("text-to-image", "StableDiffusionPipeline"),
            ("image-to-image", "StableDiffusionImg2ImgPipeline"),
        )
    ]
    assert {"torch", "diffusers", "transformers"} <= set(info["versions"])


def test_tiny_models_are_made_once_and_always_the_same(models: Path, tmp_path: Path) -> None:
    """A whole folder is left alone, a damaged one made anew, with the same digest as everywhere."""
    from runner.models.tiny import make_all

    cards = [path / "reelnet.json" for path in make_all(models)]
    weights = models / "reelnet/tiny-random-sd/unet/diffusion_pytorch_model.safetensors"
    made_at = weights.stat().st_mtime_ns
    make_all(models)
    assert weights.stat().st_mtime_ns == made_at
    again = [path / "reelnet.json" for path in make_all(tmp_path)]
    assert [json.loads(card.read_text()) for card in cards] == [json.loads(card.read_text()) for card in again]
    broken = tmp_path / "reelnet/tiny-random-sd/unet/diffusion_pytorch_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1] + b"x")
    make_all(tmp_path)
    assert broken.read_bytes() == weights.read_bytes()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) < 40e6


def test_tiny_models_of_an_older_maker_are_made_anew(tmp_path: Path) -> None:
    """Their card says which maker wrote them; nothing else has to differ."""
    from runner.models import tiny

    (folder,) = [path for path in tiny.make_all(tmp_path) if path.name == "tiny-random-flux"]
    card = json.loads((folder / "reelnet.json").read_text())
    (folder / "reelnet.json").write_text(json.dumps(card | {"generator": tiny.GENERATOR - 1}))
    (folder / "leftover.txt").write_text("of the older maker")
    tiny.make_all(tmp_path)
    assert json.loads((folder / "reelnet.json").read_text()) == card
    assert not (folder / "leftover.txt").exists()


def _pickled(folder: Path) -> None:
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))


def _half_pickled(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def _truncated(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _of_another_shape(folder: Path) -> None:
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", folder / "unet/diffusion_pytorch_model.safetensors")


def _of_an_unknown_class(folder: Path) -> None:
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("StableDiffusionPipeline", "AudioLDMPipeline"))


def _without_a_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


def _without_a_vocabulary(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_pickled, "only safetensors are read"),
        (_half_pickled, "unet: has no safetensors weights"),
        (_truncated, "download it again"),
        (_of_another_shape, "the model cannot be read"),
        (_of_an_unknown_class, "no pipeline here serves a AudioLDMPipeline"),
        (_without_a_tokenizer, "tokenizer: missing"),
        (_without_a_vocabulary, "tokenizer: has no vocabulary"),
    ],
)
async def test_a_model_that_is_not_whole_is_a_failed_setup(
    models: Path, tmp_path: Path, damage: Any, reason: str
) -> None:
    """The runner stays up and says what is wrong with the folder."""
    folder = tmp_path / "model"
    shutil.copytree(models / "reelnet/tiny-random-sd", folder)
    damage(folder)
    async with serving(build(RunnerSettings(model=str(folder), stop_timeout_s=60)), tmp_path) as client:
        health = await client.until(State.SETUP_FAILED, State.READY)
        assert health["state"] == "SETUP_FAILED"
        assert reason in health["reason"]


async def test_a_pipeline_that_the_family_lacks_is_a_failed_setup(models: Path, tmp_path: Path) -> None:
    """The subset that the operator names has to be served."""
    app = build(_settings(models, "sd", pipelines=["image-to-video"]))
    async with serving(app, tmp_path) as client:
        health = await client.until(State.SETUP_FAILED, State.READY)
        assert "does not serve image-to-video; it serves text-to-image, image-to-image" in health["reason"]
