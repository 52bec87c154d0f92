"""A clip through a function, frame by frame."""

from __future__ import annotations

import io
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from reelnet.clips import inspect_clip, probe_clip
from reelnet.errors import CanceledError, NodeError, UserError
from runner.backend import ClipFile, InputClip, Pixels
from runner.video_codecs import ClipOutput
from runner.video_file import Mp4
from runner.video_reader import Frame
from runner.video_stream import Window, remade
from tests.fakes.media import Clip

OUTPUT = ClipOutput(crf=10, window=3)


def opened(clip: Clip) -> InputClip:
    """The clip as a runner's job has it."""
    data = clip.encode()
    return InputClip(data, probe_clip(data))


def doubled(pixels: Pixels) -> Pixels:
    """Each pixel twice."""
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def frames_of(data: bytes) -> list[Pixels]:
    """A clip's pictures."""
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def moments_of(data: bytes) -> list[float]:
    """The seconds at which a clip's pictures are shown."""
    with av.open(io.BytesIO(data)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def run(clip: InputClip, window: Window | None = None, done: list[int] | None = None) -> ClipFile:
    """The clip with twice its sides."""
    seen = [] if done is None else done
    return remade(clip, doubled, 2, OUTPUT, seen.append, window)


def test_a_long_clip_never_holds_more_frames_than_its_window() -> None:
    """Of 300 frames at most the window, the one being made and the one being encoded are held at a time."""
    window, done = Window(), list[int]()
    clip = run(opened(Clip(32, 32, frames=300, fps=30, moving=False)), window, done)
    assert clip.shape == (300, 64, 64, 3)
    assert done == list(range(1, 301))
    assert 1 <= window.most <= OUTPUT.window + 2


def test_a_slow_encoder_holds_the_model_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function waits for the encoder: frames do not pile up where encoding is what takes long."""
    window, frames, add = Window(), 40, Mp4.add
    made, encoded, moved = 0, 0, threading.Condition()

    def slow(clip: Mp4, frame: Frame) -> None:
        """Encodes a frame when the model is as far ahead as it may be: the window, and a frame on each side of it."""
        nonlocal encoded
        with moved:
            assert moved.wait_for(lambda: made >= min(frames, encoded + OUTPUT.window + 2), timeout=30)
        add(clip, frame)
        encoded += 1

    def change(pixels: Pixels) -> Pixels:
        nonlocal made
        with moved:
            made += 1
            moved.notify_all()
        return pixels

    monkeypatch.setattr(Mp4, "add", slow)
    remade(opened(Clip(64, 64, frames=frames)), change, 1, OUTPUT, lambda _: None, window)
    assert OUTPUT.window <= window.most <= OUTPUT.window + 2


def test_the_pictures_are_those_of_the_input() -> None:
    """Frame n of the output is frame n of the input, enlarged, whatever its colours are said to be."""
    for space in (1, 2, 5):
        given = opened(Clip(frames=8, space=space))
        pairs = zip(frames_of(given.data), frames_of(bytes(run(given).data)), strict=True)
        differences = [float(np.abs(doubled(a).astype(int) - b).mean()) for a, b in pairs]
        assert max(differences) < 8, (space, differences)


@pytest.mark.parametrize("codec", ["av1", "vp9"])
def test_another_codec_keeps_times_and_sound(codec: str) -> None:
    """What holds for H.264 holds for each codec: count, uneven moments, sound, in order."""
    given = opened(Clip(frames=20, fps=25, sound=True, uneven=True))
    data = bytes(remade(given, doubled, 2, replace(OUTPUT, codec=codec), lambda _: None).data)
    found = probe_clip(data)
    assert found == replace(given.source, width=128, height=96)
    assert moments_of(data) == pytest.approx(moments_of(given.data), abs=1e-4)


@pytest.mark.parametrize("codec", ["av1", "vp9"])
def test_an_encoder_that_is_left_in_the_middle_ends(codec: str) -> None:
    """A canceled clip leaves no thread, also of encoders that hold many frames back."""

    def stopping(frames: int) -> None:
        if frames == 10:
            raise CanceledError("enough")

    with pytest.raises(CanceledError):
        remade(opened(Clip(frames=50)), doubled, 2, replace(OUTPUT, codec=codec), stopping)
    assert not [thread for thread in threading.enumerate() if thread.name == "clip encoder"]


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_clip_becomes_upright(rotation: int) -> None:
    """The output is what a player shows of the input."""
    given = opened(Clip(frames=2, rotation=rotation))
    (first, *_), (shown, *_) = frames_of(given.data), frames_of(bytes(run(given).data))
    upright = doubled(np.ascontiguousarray(np.rot90(first, rotation // 90)))
    assert shown.shape == upright.shape
    assert float(np.abs(upright.astype(int) - shown).mean()) < 8


def test_equal_clips_give_equal_bytes() -> None:
    """The same job is the same file."""
    given = opened(Clip(frames=6, sound=True, fps=Fraction(24000, 1001)))
    assert bytes(run(given).data) == bytes(run(given).data)


def test_a_job_that_is_told_to_stop_ends_at_its_next_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of a canceled clip: no thread, no file."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    changed: list[int] = []

    def stopping(frames: int) -> None:
        if frames == 3:
            raise CanceledError("enough")

    def change(pixels: Pixels) -> Pixels:
        changed.append(1)
        return doubled(pixels)

    with pytest.raises(CanceledError):
        remade(opened(Clip(frames=50)), change, 2, OUTPUT, stopping)
    assert len(changed) == 3
    assert not [thread for thread in threading.enumerate() if thread.name == "clip encoder"]
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_a_clip_but_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has no name any more when it is handed over."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    clip = run(opened(Clip(frames=3)))
    assert not list(tmp_path.iterdir())
    assert len(frames_of(bytes(clip.data))) == 3


def test_a_clip_that_cannot_be_written_is_the_node_s_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the encoder's thread meets is told to the job, also while it waits for room."""

    def broken(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("runner.video_file.Mp4._picture", broken)
    with pytest.raises(NodeError, match="OSError"):
        run(opened(Clip(frames=30)))


def test_a_clip_with_damaged_pictures_is_the_user_s_fault() -> None:
    """A stream that cannot be decoded is refused, whatever its container claims."""
    given = opened(Clip(frames=5))
    start = given.data.index(b"mdat") + 4
    damaged = given.data[:start] + b"\xff" * 200 + given.data[start + 200 :]
    with pytest.raises(UserError, match="damaged"):
        run(InputClip(damaged, given.source))


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "ac3", "eac3", "alac", "libopus", "flac"])
def test_sound_of_every_codec_is_carried_over(codec: str) -> None:
    """The packets of the sound are those of the input, whatever they are coded as."""
    given = opened(Clip(frames=6, sound=True, sound_codec=codec))
    assert given.source.sound
    assert probe_clip(bytes(run(given).data)).sound == given.source.sound


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [("libx264", "yuv444p"), ("libx264", "yuv420p10le"), ("libx265", "yuv420p"), ("libvpx-vp9", "yuv420p"),
     ("libsvtav1", "yuv420p"), ("mpeg4", "yuv420p")],
)  # fmt: skip
def test_clips_of_every_codec_are_taken(tmp_path: Path, codec: str, pixels: str) -> None:
    """From the app's file through the copy without metadata to the runner's frames."""
    (tmp_path / "given").write_bytes(Clip(64, 64, frames=6, fps=25, codec=codec, pixels=pixels).encode())
    facts = inspect_clip(tmp_path / "given", tmp_path / "kept")
    clip = run(InputClip((tmp_path / "kept").read_bytes(), facts.source))
    assert clip.shape == (6, 128, 128, 3)


def test_a_clip_that_was_cut_without_being_encoded_again_keeps_its_cut(tmp_path: Path) -> None:
    """What an edit list hides is not shown, counted or enlarged; the sound stays in step."""
    (tmp_path / "given").write_bytes(trimmed(Clip(frames=14, fps=10, sound=True).encode(), 0.5))
    facts = inspect_clip(tmp_path / "given", tmp_path / "kept")
    kept = (tmp_path / "kept").read_bytes()
    assert facts.frames == probe_clip(kept).frames == 9
    clip = run(InputClip(kept, facts.source))
    assert clip.shape[0] == 9
    assert probe_clip(bytes(clip.data)).sound == facts.sound != ""


def trimmed(data: bytes, seconds: float) -> bytes:
    """The clip from a moment on, packet for packet: an edit list hides the ones before."""
    out = io.BytesIO()
    with av.open(io.BytesIO(data)) as given, av.open(out, "w", format="mp4") as container:
        kept = {stream.index: container.add_stream_from_template(stream, opaque=True) for stream in given.streams}
        for packet in given.demux():
            if packet.size:
                before = int(Fraction(seconds) / packet.time_base)
                packet.pts, packet.dts = (packet.pts or 0) - before, (packet.dts or 0) - before
                packet.stream = kept[packet.stream.index]
                container.mux(packet)
    return out.getvalue()
