"""What a video model's runner does around the model: the picture fitted to the clip, and frames between its frames."""

from __future__ import annotations

import importlib
import io
import itertools
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from runner.backend import Frames, Pixels
from runner.diffusion import DiffusersBackend
from runner.video_reader import Frame
from runner.video_writer import ClipWriter
from tests.fakes.runner import Answer, GatedBackend, RunnerClient, collect, parts, picture
from tests.integration.runner.diffusion import VISIBLE, apart, done, runner_settings, running, setup_failure

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = [
    pytest.mark.diffusers,
    # diffusers' Euler scheduler hands a tensor to numpy in a way that numpy 2 will drop.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

CLIP: dict[str, Any] = {"seed": 1, "width": 128, "height": 64, "num_frames": 14, "num_inference_steps": 2, "fps": 7}
PICTURE, OF_THE_ASPECT = picture(160, 120), picture(256, 128)
SVD, FILM = "reelnet/tiny-random-svd", "reelnet/tiny-random-film"


async def film(client: RunnerClient, image: bytes = PICTURE, **changes: Any) -> Answer:
    """A clip from a picture."""
    return done(await client.run(pipeline="image-to-video", params=CLIP | changes, image=image))


def frames(answer: Answer) -> np.ndarray[Any, Any]:
    with av.open(io.BytesIO(answer.outputs[0])) as clip:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]).astype(int)


@pytest.fixture(scope="module")
def bare(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same model without FILM beside it."""
    folder = tmp_path_factory.mktemp("bare") / "svd"
    shutil.copytree(tiny_models / SVD, folder, ignore=shutil.ignore_patterns("film"))
    return folder


@pytest.fixture
async def svd(tiny_models: Path, tmp_path: Path) -> AsyncIterator[RunnerClient]:
    """A runner of tiny Stable Video Diffusion with FILM beside it."""
    async with running(tiny_models, "svd", tmp_path) as client:
        yield client


async def features(client: RunnerClient) -> tuple[list[str], str | None]:
    """What it says of itself: its features, and the digest of the network behind them."""
    info = (await client.http.get("/info")).json()
    return info["pipelines"][0]["features"], info["interpolation"]


async def test_the_rule_of_fitting_changes_the_clip(svd: RunnerClient) -> None:
    """Each rule gives another one where the picture's aspect differs, and all the same where it does not."""
    fitted = {rule: frames(await film(svd, fit=rule)) for rule in ("crop", "pad", "stretch")}
    assert all(apart(a, b) > VISIBLE for a, b in itertools.combinations(fitted.values(), 2))
    assert apart(fitted["crop"], frames(await film(svd))) == 0, "crop is what a job that says nothing gets"
    same = [(await film(svd, OF_THE_ASPECT, fit=rule)).outputs for rule in ("crop", "pad", "stretch")]
    assert same[0] == same[1] == same[2]


async def test_frames_are_made_between_the_models(svd: RunnerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """14 frames at 7 become 48 at 24, 2 s: the model's own where they stand, and its last one on; the others FILM's."""
    drawn = model_frames(monkeypatch, "stable_video")
    await film(svd)
    written = written_frames(monkeypatch)
    answer = await film(svd, interpolate_to_fps=24)
    plain, own = drawn
    assert (plain == own).all()
    assert (len(own), len(written)) == (14, 48)
    kept = {0: 0, 24: 7, 45: 13, 46: 13, 47: 13}
    assert all((written[at] == own[number]).all() for at, number in kept.items())
    made = [frame for at, frame in enumerate(written) if at not in kept]
    assert not any((each == frame).all() for each in made for frame in own)
    with av.open(io.BytesIO(answer.outputs[0])) as clip:
        stream = clip.streams.video[0]
        assert (stream.frames, stream.average_rate) == (48, 24)
        assert stream.duration is not None
        assert float(stream.duration * stream.time_base) == pytest.approx(48 / 24, abs=0.01)
    told = [(row["step"], row["total"]) for row in answer.named("progress") if row["stage"] == "interpolate"]
    assert told[-1] == (48, 48)
    assert answer.last["timings_s"]["interpolate"] > 0
    assert (await film(svd, interpolate_to_fps=24)).outputs == answer.outputs


def model_frames(monkeypatch: pytest.MonkeyPatch, family: str) -> list[Frames]:
    """What the family's model draws from now on, job by job, before anything is made of it."""
    module = importlib.import_module(f"runner.pipelines.{family}")
    drawn: list[Frames] = []
    as_bytes = module.as_bytes
    monkeypatch.setattr(module, "as_bytes", lambda made: drawn.append(as_bytes(made)) or drawn[-1])
    return drawn


def written_frames(monkeypatch: pytest.MonkeyPatch) -> list[Pixels]:
    """The frames that clips are encoded from, from now on."""
    written: list[Pixels] = []
    put = ClipWriter.put

    def noted(writer: ClipWriter, item: Any) -> None:
        assert isinstance(item, Frame)
        written.append(item.pixels)
        put(writer, item)

    monkeypatch.setattr(ClipWriter, "put", noted)
    return written


async def test_clips_that_follow_words_have_both_as_well(
    tiny_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wan fits its picture by the rule, and 5 frames at 8 become 15 at 24, as long as before."""
    changes: list[dict[str, Any]] = [{}, {"fit": "pad"}, {"fit": "stretch"}, {"interpolate_to_fps": 24}]
    asked = {"prompt": "waves", "num_frames": 5, "fps": 8}
    drawn, written = model_frames(monkeypatch, "wan_video"), written_frames(monkeypatch)
    async with running(tiny_models, "wan", tmp_path) as client:
        assert "interpolation" in (await features(client))[0]
        params = {name: CLIP[name] for name in ("seed", "width", "height", "num_inference_steps")} | asked
        for more in changes:
            written.clear()
            done(await client.run(pipeline="image-to-video", params=params | more, image=PICTURE))
    *fitted, own = (made.astype(int) for made in drawn)
    assert all(apart(a, b) > VISIBLE for a, b in itertools.combinations(fitted, 2))
    assert (len(own), len(written)) == (5, 15)
    assert (written[0] == own[0]).all()
    assert (written[-1] == own[-1]).all()


async def test_film_changes_nothing_for_a_job_that_asks_for_none(svd: RunnerClient, bare: Path, tmp_path: Path) -> None:
    """The same bytes, digest and variant with the network beside the model and without."""
    (tmp_path / "second").mkdir()
    async with running(bare.parent, str(bare), tmp_path / "second") as without:
        assert (await film(without)).outputs == (await film(svd)).outputs
        assert (await features(without), (await features(svd))[0]) == (([], None), ["interpolation"])
        told = [(await client.http.get("/info")).json() for client in (svd, without)]
        assert told[0]["digest"] == told[1]["digest"]


async def test_a_runner_without_film_refuses_the_rate(bare: Path, tmp_path: Path) -> None:
    """As `unsupported`, by the feature's name and before a step is run."""
    async with running(bare.parent, str(bare), tmp_path) as client:
        order = parts(pipeline="image-to-video", params=CLIP | {"interpolate_to_fps": 24}, image=PICTURE)
        answer = await client.http.post("/jobs", files=order)
        assert answer.status_code == 422
        assert (answer.json()["class"], answer.json()["detail"]["code"]) == ("unsupported", "interpolation")
        assert answer.json()["detail"]["msg"].startswith("interpolate_to_fps: ")


async def test_film_may_lie_elsewhere(tiny_models: Path, bare: Path, tmp_path: Path) -> None:
    """A setting names its folder, by id or path; the digest is that of FILM as a model of its own."""
    async with running(tiny_models, str(bare), tmp_path, interpolation=FILM) as client:
        found = await features(client)
        assert (await film(client, interpolate_to_fps=24)).outputs
    async with running(tiny_models, "film", tmp_path) as its_own:
        digest = (await its_own.http.get("/info")).json()["digest"]
    assert found == (["interpolation"], digest)


@pytest.mark.parametrize(
    ("model", "setting", "said"),
    [
        ("svd", "reelnet/tiny-random-sd", "interpolation: .* a StableDiffusionPipeline makes no frames"),
        ("svd", "reelnet/nowhere", "interpolation: .*nowhere: there is no such model folder"),
        ("sd", FILM, "interpolation: for a model of video alone"),
        ("film", FILM, "interpolation: for a model of video alone"),
    ],
)
async def test_what_is_no_film_is_a_failed_setup(
    tiny_models: Path, tmp_path: Path, model: str, setting: str, said: str
) -> None:
    """The operator learns at the start, not by the first job."""
    reason = await setup_failure(tiny_models, model, tmp_path, interpolation=setting)
    assert re.search(said, reason), reason


async def test_a_cancel_between_frames_leaves_no_trace(tiny_models: Path, tmp_path: Path) -> None:
    """The job stops at its next frame, and the one after it is as any other."""
    gate = GatedBackend(DiffusersBackend(runner_settings(tiny_models, "svd")), step=9, stage="interpolate")
    job: dict[str, Any] = {"pipeline": "image-to-video", "params": CLIP | {"interpolate_to_fps": 24}, "image": PICTURE}
    async with running(tiny_models, "svd", tmp_path, gate) as client:
        async with client.stream(**job) as response:
            await gate.wait_held()
            assert (await client.health())["step"] == {"stage": "interpolate", "step": 8, "total": 48}
            await client.http.delete("/jobs/job-1")
            gate.open()
            assert (await collect(response)).last["class"] == "canceled"
        after = done(await client.run(**job))
    async with running(tiny_models, "svd", tmp_path) as fresh:
        assert done(await fresh.run(**job)).outputs == after.outputs


async def test_memory_that_is_short_for_film_is_told_and_survived(
    svd: RunnerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `oom`, whichever network it was short for; the next job is done."""
    from runner.models.film import Film

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(Film, "relate", full)
        params = CLIP | {"interpolate_to_fps": 24}
        answer = await svd.run(pipeline="image-to-video", params=params, image=PICTURE)
        assert answer.last["class"] == "oom"
    await film(svd, interpolate_to_fps=24)
