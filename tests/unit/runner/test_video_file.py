"""Clips out, whole ones and frame by frame."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from reelnet.inspection import check_output
from reelnet.pipelines import MediaSpec
from runner.backend import Frames, Pixels
from runner.video_codecs import ClipOutput
from runner.video_file import ClipFormat, clip_of, taken, writing
from runner.video_reader import Colours, Frame

CODECS = ("h264", "av1", "vp9")
ROCKET = Path(__file__).parents[3] / "examples" / "rocket.jpg"


def noise(frames: int, seed: int = 0) -> Frames:
    """Frames of 96 × 64 that nothing can be said of."""
    return np.random.default_rng(seed).integers(0, 256, (frames, 64, 96, 3), np.uint8)


def photo(frames: int, width: int = 128, height: int = 96) -> Frames:
    """A photograph that moves."""
    with Image.open(ROCKET) as picture:
        large = picture.convert("RGB").resize((width * 2, height * 2))
    return np.stack([np.asarray(large.crop((i * 3, i * 2, i * 3 + width, i * 2 + height))) for i in range(frames)])


def clip(frames: Frames, fps: int | Fraction = 6, codec: str = "h264") -> bytes:
    """The clip of the frames."""
    return bytes(clip_of(frames, Fraction(fps), ClipOutput(codec=codec), lambda _: None).data)


def pictures(data: bytes) -> Frames:
    """A clip's frames."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("frames", "fps"), [(2, 1), (14, 6), (25, 7), (14, 60), (3, Fraction(30000, 1001))])
def test_frames_size_and_rate_are_exact(frames: int, fps: int | Fraction, codec: str) -> None:
    """The clip has each frame once, at the asked rate, for as long as they take."""
    with av.open(io.BytesIO(clip(noise(frames), fps, codec))) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.pix_fmt) == (96, 64, "yuv420p")
        assert stream.codec_context.codec.canonical_name == codec
        assert stream.average_rate == fps
        assert stream.frames == frames
        assert stream.duration * stream.time_base == pytest.approx(frames / fps, abs=1e-4)
        moments = [frame.pts * frame.time_base for frame in container.decode(stream)]
        assert moments == pytest.approx([index / fps for index in range(frames)], abs=1e-4)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [(16, 16), (34, 18), (128, 96)])
def test_each_frame_is_the_one_that_came_in(codec: str, size: tuple[int, int]) -> None:
    """Their order, their colours and their edges stay, whatever the codec and the size."""
    frames = photo(9, *size)
    errors = np.abs(frames.astype(int) - pictures(clip(frames, codec=codec))).mean(axis=(1, 2, 3))
    assert errors.max() < 9, errors


@pytest.mark.parametrize("codec", CODECS)
def test_the_clip_says_its_colours(codec: str) -> None:
    """BT.709 in a television's range: nothing is left for a player to guess."""
    with av.open(io.BytesIO(clip(photo(2), codec=codec))) as container:
        context = container.streams.video[0].codec_context
        said = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        assert said == (1, 1, 1, 1)


@pytest.mark.parametrize("codec", CODECS)
def test_uneven_times_and_oblong_pixels_are_kept(tmp_path: Path, codec: str) -> None:
    """Each frame is shown when it was to be, and the last one for as long."""
    moments, aspect = [0, 50, 70, 90, 140, 160, 180, 230, 250], Fraction(4, 3)
    layout = ClipFormat(128, 96, Fraction(30), Fraction(1, 1000), Colours(aspect=aspect))
    with writing(tmp_path / "clip", layout, ClipOutput(codec=codec)) as mp4:
        for pixels, start, end in zip(photo(9), moments, [*moments[1:], 290], strict=True):
            mp4.add(Frame(pixels, start, end - start))
        mp4.finish()
    with av.open(io.BytesIO(bytes(taken(tmp_path / "clip", (9, 96, 128, 3)).data))) as container:
        stream = container.streams.video[0]
        assert [frame.pts * frame.time_base * 1000 for frame in container.decode(stream)] == moments
        assert container.duration == 290_000  # microseconds
        assert stream.sample_aspect_ratio == aspect


@pytest.mark.parametrize("codec", CODECS)
def test_equal_frames_give_equal_bytes(codec: str) -> None:
    """Nothing of the time, the machine or the threads gets in."""
    assert clip(noise(5), codec=codec) == clip(noise(5), codec=codec)
    assert clip(noise(5), codec=codec) != clip(noise(5, seed=1), codec=codec)


@pytest.mark.parametrize("codec", CODECS)
def test_every_process_writes_the_same(codec: str) -> None:
    """The same frames are the same file in a process that never saw another one."""
    here = Path(__file__)
    program = f"import importlib.util as u, hashlib; s = u.spec_from_file_location('t', {str(here)!r})\n"
    program += f"t = u.module_from_spec(s); s.loader.exec_module(t)\nd = t.clip(t.photo(14), codec={codec!r})\n"
    said = subprocess.run(
        [sys.executable, "-c", program + "print(hashlib.sha256(d).hexdigest())"],
        capture_output=True, text=True, check=True, timeout=60, cwd=here.parents[3],
    )  # fmt: skip
    assert said.stdout.strip() == hashlib.sha256(clip(photo(14), codec=codec)).hexdigest()
    assert said.stderr == ""


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("seed", [0, 4, 5])
def test_old_memory_does_not_show_in_a_clip(seed: int, codec: str) -> None:
    """Whatever a long-lived runner has left in memory, equal frames give equal bytes (x264's tree read it)."""
    random = np.random.default_rng(seed)
    grain = random.normal(0, 60, (14, 64, 64, 3))
    frames = np.clip(128 + grain * (0.3 + 0.7 * random.random((14, 1, 1, 1))), 0, 255).astype(np.uint8)
    clips = set()
    for _ in range(25 if codec == "h264" else 7):
        left = [random.integers(0, 256, size, dtype=np.uint8) for size in range(3000, 120_000, 1777)]
        del left
        clips.add(clip(frames, 7, codec))
    assert len(clips) == 1


@pytest.mark.parametrize("codec", CODECS)
def test_a_clip_that_stands_still_is_seen_as_that(tmp_path: Path, codec: str) -> None:
    """By whoever checks the file, however it is coded; a camera that moves by half a pixel in all is seen to move."""
    for moves, still in ((0.0, True), (0.5, False)):
        file = tmp_path / "clip.mp4"
        file.write_bytes(clip(np.stack([_seen_from(moves * index / 13) for index in range(14)]), codec=codec))
        facts = check_output(file, "video/mp4", MediaSpec("video", 256, 144, 14, 6, codec=codec), 10**7)
        assert facts.still is still, moves


def _seen_from(left: float) -> Pixels:
    with Image.open(ROCKET) as picture:
        box = (left, 0, 600 + left, 400)
        return np.asarray(picture.convert("RGB").resize((256, 144), Image.Resampling.BICUBIC, box=box))


@pytest.mark.parametrize("codec", CODECS)
def test_the_index_comes_first(codec: str) -> None:
    """A player can begin before it has the whole file."""
    data = clip(noise(3), codec=codec)
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("codec", CODECS)
def test_every_frame_ticks(codec: str) -> None:
    """Long clips are seen to move."""
    ticks: list[int] = []
    clip_of(noise(4), Fraction(6), ClipOutput(codec=codec), ticks.append)
    assert ticks == [1, 2, 3, 4]


@pytest.mark.parametrize("codec", CODECS)
def test_a_lower_rate_factor_is_better_and_larger(codec: str) -> None:
    """Each codec's own setting is the one that counts for it."""
    frames = photo(6)
    name = {"h264": "crf"}.get(codec, f"{codec}_crf")
    sizes = [len(clip_of(frames, Fraction(6), replace(ClipOutput(codec=codec), **{name: crf}), lambda _: None).data)
             for crf in (5, 20, 45)]  # fmt: skip
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 2 * sizes[2]
