"""A clip at another frame rate."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from reelnet.clips import probe_clip
from reelnet.errors import CanceledError, UserError
from runner.backend import ClipFile, InputClip, Pixels
from runner.video_codecs import ClipOutput
from runner.video_rate import at_rate
from tests.fakes.media import Clip

OUTPUT = ClipOutput(crf=10, window=3)


class Second:
    """A network that shows the second frame, and stops the job when it was asked often enough."""

    def __init__(self) -> None:
        self.made = 0

    def between(self, first: Pixels, second: Pixels) -> Second:
        self._second = second
        return self

    def at(self, t: float) -> Pixels:
        self.made += 1
        return self._second


class Steps:
    def __init__(self, cancel_at: int | None = None) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self._cancel_at = cancel_at

    def step(self, stage: str, step: int, total: int) -> None:
        self.seen.append((stage, step, total))
        if step == self._cancel_at:
            raise CanceledError("enough")


def opened(clip: Clip) -> InputClip:
    data = clip.encode()
    return InputClip(data, probe_clip(data))


def run(clip: InputClip, fps: int | Fraction) -> ClipFile:
    return at_rate(clip, Fraction(fps), Second(), OUTPUT, Steps())


def pictures(data: bytes) -> list[Pixels]:
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def starts(data: bytes, kind: str) -> list[float]:
    with av.open(io.BytesIO(data)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        assert stream.time_base is not None
        return sorted(float((p.pts or 0) * stream.time_base) for p in container.demux(stream) if p.size)


def test_fourteen_frames_at_seven_become_two_seconds_at_24() -> None:
    """48 frames, evenly timed, the first and the last as they were, and the very sound."""
    given = opened(Clip(frames=14, fps=7, sound=True))
    made = run(given, 24)
    data = bytes(made.data)
    found = probe_clip(data)
    assert made.shape == (48, 48, 64, 3)
    assert (found.frames, found.fps, found.fps_den) == (48, 24, 1)
    assert found.sound == given.source.sound != ""
    assert np.diff(starts(data, "video")) == pytest.approx([1 / 24] * 47, abs=1e-4)
    assert starts(data, "audio") == pytest.approx(starts(given.data, "audio"), abs=1e-4)
    before, after = pictures(given.data), pictures(data)
    for index in (0, -1):
        assert float(np.abs(before[index].astype(int) - after[index]).mean()) < 8


@pytest.mark.parametrize(
    ("clip", "fps", "frames"),
    [
        (Clip(frames=9, fps=Fraction(30000, 1001)), 60, 18),
        (Clip(frames=9, fps=30), 30, 9),
        (Clip(frames=31, fps=30), 10, 10),
        (Clip(frames=1, fps=30), 24, 1),
        (Clip(frames=10, fps=25, rotation=90), 50, 20),
        (Clip(frames=10, fps=25), Fraction(30000, 1001), 12),
        (Clip(frames=4, fps=1), 24, 96),
    ],
)
def test_the_promised_count_and_rate(clip: Clip, fps: int | Fraction, frames: int) -> None:
    """For rational rates, equal ones, fewer frames, a single frame and a turned clip."""
    made = run(opened(clip), fps)
    found = probe_clip(bytes(made.data))
    assert found.frames == made.shape[0] == frames
    if frames > 1:
        assert Fraction(found.fps, found.fps_den) == fps


def test_a_job_that_is_told_to_stop_ends_at_its_next_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    net, steps = Second(), Steps(cancel_at=4)
    with pytest.raises(CanceledError):
        at_rate(opened(Clip(frames=14, fps=7)), Fraction(24), net, OUTPUT, steps)
    assert net.made == 3
    assert steps.seen[-1] == ("interpolate", 4, 48)
    assert not list(tmp_path.iterdir())


def test_a_clip_that_is_shorter_than_counted_is_damaged() -> None:
    """No promise is kept with it."""
    given = opened(Clip(frames=5, fps=10))
    source = type(given.source)(given.source.width, given.source.height, 6, 10)
    with pytest.raises(UserError, match="6 frames"):
        run(InputClip(given.data, source), 20)
