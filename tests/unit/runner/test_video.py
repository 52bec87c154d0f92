"""Clips out."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from runner.video import mp4


def _noise(frames: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (frames, 64, 96, 3), np.uint8)


@pytest.mark.parametrize(("frames", "fps"), [(2, 1), (14, 6), (25, 7), (14, 60)])
def test_frames_size_and_rate_are_exact(frames: int, fps: int) -> None:
    """The clip has each frame once, at the asked rate."""
    data = mp4(_noise(frames), fps, 18, lambda _: None)
    with av.open(io.BytesIO(data)) as clip:
        stream = clip.streams.video[0]
        assert (stream.width, stream.height, stream.pix_fmt) == (96, 64, "yuv420p")
        assert stream.codec_context.name == "h264"
        assert stream.average_rate == fps
        assert stream.frames == frames
        assert len(list(clip.decode(stream))) == frames


def test_equal_frames_give_equal_bytes() -> None:
    """Nothing of the time, the machine or the threads gets in."""
    assert mp4(_noise(5), 6, 18, lambda _: None) == mp4(_noise(5), 6, 18, lambda _: None)
    assert mp4(_noise(5), 6, 18, lambda _: None) != mp4(_noise(5, seed=1), 6, 18, lambda _: None)


@pytest.mark.parametrize("seed", [0, 4, 5])
def test_old_memory_does_not_show_in_a_clip(seed: int) -> None:
    """Whatever a long-lived runner has left in memory, equal frames give equal bytes (x264's tree read it)."""
    random = np.random.default_rng(seed)
    grain = random.normal(0, 60, (14, 64, 64, 3))
    frames = np.clip(128 + grain * (0.3 + 0.7 * random.random((14, 1, 1, 1))), 0, 255).astype(np.uint8)
    clips = set()
    for _ in range(25):
        left = [random.integers(0, 256, size, dtype=np.uint8) for size in range(3000, 120_000, 1777)]
        del left
        clips.add(mp4(frames, 7, 18, lambda _: None))
    assert len(clips) == 1


def test_the_index_comes_first() -> None:
    """A player can begin before it has the whole file."""
    data = mp4(_noise(3), 6, 18, lambda _: None)
    assert data.index(b"moov") < data.index(b"mdat")


def test_every_frame_ticks() -> None:
    """Long clips are seen to move."""
    ticks: list[int] = []
    mp4(_noise(4), 6, 18, ticks.append)
    assert ticks == [1, 2, 3, 4]
