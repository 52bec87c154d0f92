"""From a video model's frames to the job's clip."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelnet.clips import probe_clip
from reelnet.errors import CanceledError
from reelnet.pipelines import FAMILIES
from runner.backend import Frames, Pixels, RunnerJob
from runner.safety import Safety
from runner.video_codecs import ClipOutput
from runner.video_frames import ClipMaker

OUTPUT = ClipOutput(crf=10, window=3)
SIZE = {"width": 96, "height": 64, "seed": 5}


class Middle:
    """A network that shows the middle of two frames, and knows how many of those it made are still held."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[Pixels]] = []
        self.most = 0

    def between(self, first: Pixels, second: Pixels) -> Middle:
        self._frame = ((first.astype(int) + second) // 2).astype(np.uint8)
        return self

    def at(self, t: float) -> Pixels:
        frame = self._frame.copy()
        self.made.append(weakref.ref(frame))
        self.most = max(self.most, sum(ref() is not None for ref in self.made))
        return frame


class Steps:
    """Notes steps, and stops the job at one of them."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self._cancel_at = cancel_at

    def step(self, stage: str, step: int, total: int) -> None:
        self.seen.append((stage, step, total))
        if step == self._cancel_at:
            raise CanceledError("enough")


def asked(family: str = "svd", **params: Any) -> RunnerJob:
    pipeline = FAMILIES["image-to-video", family]
    return RunnerJob("j", 1, pipeline.name, pipeline.parse({**SIZE, **params}), family=family)


def drawn(count: int) -> Frames:
    """As a model gives them."""
    frames: Frames = np.random.default_rng(3).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8)
    return frames


def test_a_job_that_asks_for_no_rate_gets_the_frames_themselves() -> None:
    """Nothing is made or encoded, whether there is a network or not."""
    frames, net = drawn(14), Middle()
    job = asked(fps=7)
    with_net = ClipMaker(OUTPUT, net).clip(job, frames, Steps())
    without = ClipMaker(OUTPUT).clip(job, frames, Steps())
    assert with_net.frames is without.frames is frames
    assert (with_net.fps, with_net.clip, with_net.seed) == (without.fps, without.clip, without.seed) == (7, None, 5)
    assert net.made == []


@pytest.mark.parametrize(
    ("family", "frames", "fps", "target", "count"),
    [
        ("svd", 14, 7, 24, 48),
        ("svd", 25, 6, 120, 500),
        ("svd", 2, 1, 2, 4),
        ("svd", 9, 24, 24, 9),
        ("wan", 81, 16, 24, 122),
    ],
)
def test_the_clip_is_what_the_job_promises(family: str, frames: int, fps: int, target: int, count: int) -> None:
    """For every family: count, rate and size; each frame is told, and all but the model's own are made."""
    job, net, steps = asked(family, num_frames=frames, fps=fps, interpolate_to_fps=target), Middle(), Steps()
    rendered = ClipMaker(OUTPUT, net).clip(job, drawn(frames), steps)
    (spec,) = job.promises
    assert rendered.clip is not None
    assert (rendered.shape, rendered.fps) == ((spec.frames, 64, 96, 3), spec.rate)
    found = probe_clip(bytes(rendered.clip.data))
    assert (found.frames, found.fps, found.fps_den, found.width, found.height) == (count, target, 1, 96, 64)
    assert steps.seen == [("interpolate", n + 1, count) for n in range(count)]
    work = job.kind.work(job.params)
    drawn_steps = 96 * 64 * frames * job.params.num_inference_steps  # type: ignore[attr-defined]
    assert 96 * 64 * len(net.made) == work.pixel_steps - drawn_steps, "what is paid is what is made"


def test_made_frames_do_not_pile_up() -> None:
    """Of 456 no more are held than wait for the encoder, are being encoded, and are being made."""
    net = Middle()
    ClipMaker(OUTPUT, net).clip(asked(num_frames=25, fps=6, interpolate_to_fps=120), drawn(25), Steps())
    assert len(net.made) == 456
    assert 1 <= net.most <= OUTPUT.window + 3


def test_a_job_that_is_told_to_stop_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at its next frame; no file stays."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    net, steps = Middle(), Steps(cancel_at=5)
    with pytest.raises(CanceledError):
        ClipMaker(OUTPUT, net).clip(asked(fps=7, interpolate_to_fps=24), drawn(14), steps)
    assert steps.seen[-1] == ("interpolate", 5, 48)
    assert len(net.made) == 4
    assert not list(tmp_path.iterdir())


def test_what_a_pipeline_offers_by_its_nets() -> None:
    """Frames between frames by the one, a check by the other; a job that asks for what is not offered comes never."""
    judge = Safety("flag", Finding())
    made = [ClipMaker(OUTPUT, net, safety).features for net in (None, Middle()) for safety in (Safety(), judge)]
    assert made == [(), ("safety",), ("interpolation",), ("interpolation", "safety")]


class Watching(Middle):
    """Notes the first of each two frames that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Pixels] = []

    def between(self, first: Pixels, second: Pixels) -> Middle:
        self.shown.append(first)
        return super().between(first, second)


class Finding:
    """A checker that finds something in everything; notes how many frames it was shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def finds(self, frames: Frames) -> bool:
        self.shown.append(len(frames))
        return True


@pytest.mark.parametrize("fps", [None, 24])
def test_a_clip_is_judged_before_frames_are_made_between_its_own(fps: int | None) -> None:
    """What is blurred is all that the network sees, and the clip says what was found."""
    checker, net, frames = Finding(), Watching(), drawn(14)
    job = asked(fps=7, interpolate_to_fps=fps, safety="blur")
    rendered = ClipMaker(OUTPUT, net, Safety("flag", checker)).clip(job, frames, Steps())
    assert rendered.nsfw is True
    assert checker.shown == [9]
    seen = np.stack(net.shown) if fps else rendered.frames
    assert len(seen) >= 13
    assert seen.std() < frames.std() / 4
