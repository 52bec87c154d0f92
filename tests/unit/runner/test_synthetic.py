"""The backend without a model."""

from __future__ import annotations

import itertools
import math
import threading
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reelnet.clips import probe_clip
from reelnet.errors import ConfigError, NodeError, RefusedError, UnsupportedError, UserError
from reelnet.parameters import VIDEO
from reelnet.pipelines import PIPELINES
from runner.backend import InputClip, Rendered, RunnerJob
from runner.settings import Fault, Lora, Synthetic
from runner.synthetic import SyntheticBackend, spread_factor
from runner.synthetic_extras import SyntheticExtras, pretended
from tests.fakes.media import Clip

PROMPT = {"text-to-image": {"prompt": "a fox", "width": 128, "height": 64}, "image-to-image": {"prompt": "a fox"}}


class Steps:
    """A reporter that notes what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int]] = []

    def step(self, stage: str, step: int, total: int) -> None:
        self.seen.append((stage, step, total))


def _job(pipeline: str, attempt: int = 1, **params: Any) -> RunnerJob:
    picture = {"image": Image.new("RGB", (72, 40))} if "image" in PIPELINES[pipeline].inputs else {}
    clip = Clip(72, 40, frames=5).encode() if VIDEO in PIPELINES[pipeline].inputs else None
    steps = {"num_inference_steps": 3} if "num_inference_steps" in PIPELINES[pipeline].params.model_fields else {}
    values = {"seed": 5, **steps, **PROMPT.get(pipeline, {}), **params}
    clips = {VIDEO: InputClip(clip, probe_clip(clip))} if clip else {}
    return RunnerJob("j", attempt, pipeline, PIPELINES[pipeline].parse(values), picture, clips=clips)


def _run(backend: SyntheticBackend, job: RunnerJob) -> tuple[list[Rendered], Steps]:
    steps = Steps()
    return list(backend.run(job, steps)), steps


@pytest.mark.parametrize("pipeline", list(PIPELINES))
def test_gives_what_the_pipeline_promises(pipeline: str) -> None:
    """Count, size, frames and rate are as asked, and every step is reported."""
    job = _job(pipeline)
    outputs, steps = _run(SyntheticBackend("m"), job)
    promised = PIPELINES[pipeline].promises(job.params, job.source)
    assert [(o.shape, o.fps) for o in outputs] == [((s.frames or 1, s.height, s.width, 3), s.rate) for s in promised]
    total = steps.seen[0][2]
    assert [s for s in steps.seen if s[0] == "denoise"] == [("denoise", n, total) for n in range(1, total + 1)]
    frames = promised[0].frames if job.clips else None
    stage = "interpolate" if pipeline == "frame-interpolation" else "upscale"
    assert steps.seen[-1] == ((stage, frames, frames) if frames else ("decode", len(promised), len(promised)))


def test_a_pipeline_is_served_as_the_family_that_was_asked() -> None:
    """The others as their first one."""
    backend = SyntheticBackend("m", Synthetic(families={"image-to-video": "wan"}))
    families = {row.pipeline: row.kind.family for row in backend.load().served}
    assert families == {name: pipeline.family for name, pipeline in PIPELINES.items()} | {"image-to-video": "wan"}


def test_outputs_depend_on_seed_and_prompt_and_nothing_else() -> None:
    """The same job is the same picture; image i is the picture of seed + i."""
    backend = SyntheticBackend("m")
    two, _ = _run(backend, _job("text-to-image", num_images_per_prompt=2))
    second, _ = _run(backend, _job("text-to-image", seed=6))
    other, _ = _run(backend, _job("text-to-image", prompt="a whale"))
    assert two[1].seed == 6
    assert (two[1].frames == second[0].frames).all()
    assert (two[0].frames != second[0].frames).any()
    assert (two[0].frames != other[0].frames).any()
    assert two[0].frames.std() > 10


def test_a_clip_at_another_rate_is_made_of_the_same_frames() -> None:
    """As many as promised, and it says so of itself: a pool without a model library can be asked for them."""
    backend, size = SyntheticBackend("m"), {"width": 128, "height": 64, "num_frames": 14, "fps": 7}
    (given,), _ = _run(backend, _job("image-to-video", **size))
    (made,), steps = _run(backend, _job("image-to-video", **size, interpolate_to_fps=24))
    assert made.clip is not None
    assert (given.shape, made.shape, made.fps) == ((14, 64, 128, 3), (48, 64, 128, 3), 24)
    assert probe_clip(bytes(made.clip.data)).frames == 48
    assert steps.seen[-1] == ("interpolate", 48, 48)
    features = {row.pipeline: row.features for row in backend.load().served}
    assert {name for name, found in features.items() if "interpolation" in found} == {"image-to-video"}


def test_clips_move() -> None:
    """Neighbouring frames differ."""
    outputs, _ = _run(SyntheticBackend("m"), _job("image-to-video", width=128, height=64))
    frames = outputs[0].frames
    assert all(np.any(a != b) for a, b in itertools.pairwise(frames))


@pytest.mark.parametrize(
    ("word", "error"),
    [("!fail user", UserError), ("!fail node", NodeError), ("!oom", MemoryError), ("!die", NodeError)],
)
def test_faults_strike_after_the_first_step(word: str, error: type[Exception]) -> None:
    """A job that fails has begun; one that dies calls the killer."""
    killed = threading.Event()
    backend, steps = SyntheticBackend("m", kill=killed.set), Steps()
    with pytest.raises(error):
        list(backend.run(_job("text-to-image", prompt=word), steps))
    assert steps.seen == [("denoise", 1, 3)]
    assert killed.is_set() is (word == "!die")


def test_once_spares_the_second_attempt() -> None:
    """`once` is for tests of failing over and trying again."""
    backend = SyntheticBackend("m")
    with pytest.raises(NodeError):
        _run(backend, _job("text-to-image", prompt="!fail node once"))
    assert len(_run(backend, _job("text-to-image", attempt=2, prompt="!fail node once"))[0]) == 1


def test_a_configured_fault_begins_after_some_jobs() -> None:
    """Two jobs succeed, all later ones fail."""
    backend = SyntheticBackend("m", Synthetic(faults=(Fault(after_jobs=2, kind="fail node"),)))
    _run(backend, _job("upscale"))
    _run(backend, _job("upscale"))
    for _ in range(2):
        with pytest.raises(NodeError):
            _run(backend, _job("upscale"))


def test_a_hang_ends_with_the_backend() -> None:
    """Nothing but close() ends it."""
    backend, steps = SyntheticBackend("synthetic/hang"), Steps()
    caught: list[Exception] = []

    def run() -> None:
        try:
            list(backend.run(_job("image-to-video"), steps))
        except NodeError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    backend.close()
    thread.join(10)
    assert not thread.is_alive()
    assert caught


def test_an_unknown_fault_is_found_at_the_start() -> None:
    """A mistake in the configuration does not wait for the third job."""
    with pytest.raises(ConfigError):
        SyntheticBackend("m", Synthetic(faults=(Fault(kind="explode"),)))


def test_a_spread_is_lognormal_and_a_seeds_own() -> None:
    """Known quantiles: the median is unit_s, and p90 lies sigma × 1.28 above it in the logarithm; a seed repeats."""
    options = Synthetic(unit_s=1.0, spread=0.5)
    factors = sorted(spread_factor(options, seed) for seed in range(4000))
    for share, z in ((0.5, 0.0), (0.9, 1.2816), (0.99, 2.3263)):
        assert math.log(factors[int(share * 4000)]) == pytest.approx(0.5 * z, abs=0.06)
    assert spread_factor(options, 7) == spread_factor(options, 7)
    assert spread_factor(options, 7) != spread_factor(Synthetic(spread=0.5, spread_seed=1), 7)
    assert spread_factor(Synthetic(), 7) == 1.0


@pytest.mark.parametrize("asked", ["jpeg", "webp"])
def test_a_prepared_file_is_a_png_alone(asked: str) -> None:
    """Another format is encoded, as it would be by a model's runner."""
    (rendered,), _ = _run(
        SyntheticBackend("m", Synthetic(output_bytes=9000)), _job("text-to-image", output_format=asked)
    )
    assert rendered.file is None


def test_a_pretended_checker_finds_what_it_is_told() -> None:
    """By a word in the prompt, or by the model's id where there is no prompt; upscaled clips have no checker."""
    backend = SyntheticBackend("m", extras=SyntheticExtras(safety="blur"))
    offered = {row.pipeline: row.features for row in backend.load().served}
    assert {name for name, features in offered.items() if "safety" in features} == {
        "text-to-image",
        "image-to-image",
        "image-to-video",
    }
    found = [_run(backend, _job("text-to-image", prompt=text))[0][0] for text in ("fox", "fox !nsfw", "!nsfwhat")]
    assert [rendered.nsfw for rendered in found] == [False, True, False]
    clips = SyntheticBackend("synthetic/nsfw", extras=SyntheticExtras(safety="flag"))
    assert [_run(clips, _job(name))[0][0].nsfw for name in ("image-to-video", "upscale")] == [True, None]
    assert _run(SyntheticBackend("m"), _job("text-to-image", prompt="!nsfw"))[0][0].nsfw is None
    with pytest.raises(RefusedError):
        _run(SyntheticBackend("m", extras=SyntheticExtras(safety="refuse")), _job("text-to-image", prompt="!nsfw"))


def test_a_prepared_file_is_not_given_for_a_blurred_picture() -> None:
    """It would show what was blurred."""
    backend = SyntheticBackend("m", Synthetic(output_bytes=9000), extras=SyntheticExtras(safety="blur"))
    assert _run(backend, _job("text-to-image"))[0][0].file
    assert _run(backend, _job("text-to-image", prompt="!nsfw"))[0][0].file is None


def test_pretended_loras_change_the_colours() -> None:
    """By strength; 0 is off and needs none; one that is not there is refused with the nearest; digests are folders'."""
    loras = pretended((Lora(folder="ink-2", id="acme/ink"), Lora(folder="acme/oil")))
    backend = SyntheticBackend("m", extras=SyntheticExtras(loras=loras))
    assert backend.load().loras == loras
    assert loras["acme/ink"] == pretended((Lora(folder="ink-2"),))["ink-2"] != pretended((Lora(folder="ink"),))["ink"]
    asked = ({}, {"acme/ink": 0.0, "none": 0.0}, {"acme/ink": 1.0}, {"acme/ink": 0.5}, {"acme/oil": 1.0})
    plain, off, *others = [_run(backend, _job("text-to-image", loras=row))[0][0].frames for row in asked]
    assert (plain == off).all()
    assert len({frames.tobytes() for frames in (plain, *others)}) == 4
    with pytest.raises(UnsupportedError, match="did you mean 'acme/ink'"):
        _run(backend, _job("text-to-image", loras={"acme/inc": 1.0}))
