"""Clips as cameras, browsers and editors write them, through intake and a runner; ffprobe and ffmpeg decide."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from reelnet.clips import ClipFacts, inspect_clip, probe_clip
from reelnet.errors import UserError
from runner.backend import InputClip
from runner.video_codecs import ClipOutput
from runner.video_rate import at_rate
from runner.video_stream import remade
from tests.fakes import ffmpeg
from tests.fakes.media import Clip, encoded, pattern
from tests.programs import needs

OUTPUT = ClipOutput(crf=8, window=3)
UNIT = 1 << 16


@pytest.fixture(autouse=True)
def programs() -> None:
    needs("ffmpeg", "ffprobe")


class Earlier:
    """A network that shows the first of two frames: what comes out is what is on the screen at that moment."""

    def between(self, first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> Earlier:
        self._first = first
        return self

    def at(self, t: float) -> npt.NDArray[np.uint8]:
        return self._first


class Silent:
    def step(self, stage: str, step: int, total: int) -> None:
        pass


def taken(folder: Path, data: bytes) -> tuple[ClipFacts, Path]:
    """What is told of a clip, and the file that goes to a node."""
    (folder / "given").write_bytes(data)
    facts = inspect_clip(folder / "given", folder / "kept.mp4")
    assert probe_clip((folder / "kept.mp4").read_bytes()) == facts.source
    return facts, folder / "kept.mp4"


def same(folder: Path, data: bytes) -> Path:
    """The clip through a runner that changes nothing, as upscale-video goes."""
    _, kept = taken(folder, data)
    clip = InputClip(kept.read_bytes(), probe_clip(kept.read_bytes()))
    return written(folder, bytes(remade(clip, lambda pixels: pixels, 1, OUTPUT, lambda _: None).data))


def faster(folder: Path, data: bytes, fps: Fraction) -> Path:
    """The clip through frame-interpolation."""
    _, kept = taken(folder, data)
    clip = InputClip(kept.read_bytes(), probe_clip(kept.read_bytes()))
    return written(folder, bytes(at_rate(clip, fps, Earlier(), OUTPUT, Silent()).data))


def written(folder: Path, data: bytes) -> Path:
    path = folder / "made.mp4"
    path.write_bytes(data)
    return path


def with_matrix(data: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """An MP4 whose pictures are to be shown by another matrix: a, b, c, d in units of 1."""
    at = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    a, b, c, d = (UNIT * part for part in matrix)
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


def moved(pixels: npt.NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    """A picture after each of its pixels went where ISO 14496-12's matrix sends it."""
    a, b, c, d = matrix
    rows, columns = np.indices(pixels.shape[:2])
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    seen = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    seen[y, x] = pixels
    return seen


MATRICES = [
    (1, 0, 0, 1),
    (-1, 0, 0, 1),
    (1, 0, 0, -1),
    (-1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, 1, -1, 0),
    (0, -1, 1, 0),
    (0, -1, -1, 0),
]


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_clip_stands_as_it_was_taken(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Four ways to hold a camera, and the same in a mirror."""
    data = with_matrix(Clip(64, 48, frames=2, smooth=True, crf=8).encode(), matrix)
    facts, kept = taken(tmp_path, data)
    made = same(tmp_path, data)
    expected = moved(ffmpeg.pictures(kept, "-vf", "null")[0] if matrix == MATRICES[0] else unturned(kept), matrix)
    (first, *_) = ffmpeg.pictures(made)
    assert (facts.height, facts.width) == first.shape[:2] == expected.shape[:2]
    assert np.abs(first.astype(int) - expected).mean() < 4
    assert not ffmpeg.stream(made, "video").get("side_data_list")


def unturned(path: Path) -> npt.NDArray[np.uint8]:
    """The first picture as it is stored."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def test_a_larger_or_odd_matrix(tmp_path: Path) -> None:
    """A scale is nothing to us; a matrix of zeros says nothing; 45 degrees are refused."""
    data = Clip(64, 48, frames=2, smooth=True).encode()
    for matrix in ((2, 0, 0, 2), (0, 0, 0, 0)):
        facts, _ = taken(tmp_path, with_matrix(data, matrix))
        assert (facts.width, facts.height) == (64, 48)
    with pytest.raises(UserError) as caught:
        taken(tmp_path, with_matrix(data, (1, 1, -1, 1)))
    assert (caught.value.code, caught.value.http_status) == ("rotation", 422)


def uneven(folder: Path, bframes: int = 0) -> bytes:
    """40 frames, each brighter than the one before, of 30 a second and then of 5, with a tone."""
    return ffmpeg.make(
        folder / "uneven.mp4", "-f", "lavfi", "-i", "color=black:s=64x48:r=30:d=1.334,geq=lum='16+5*N':cb=128:cr=128",
        "-f", "lavfi", "-i", "sine=r=48000:d=5", "-vf", "setpts='if(lt(N,20),N/30,20/30+(N-20)/5)/TB'",
        "-fps_mode", "passthrough", "-enc_time_base", "1/1000", "-video_track_timescale", "90000",
        "-c:v", "libx264", "-crf", "8", "-bf", bframes, "-pix_fmt", "yuv420p", "-c:a", "aac",
    )  # fmt: skip


def brightness(path: Path) -> list[float]:
    return [float(frame.mean()) for frame in ffmpeg.pictures(path)]


@pytest.mark.parametrize(("fps", "bframes"), [(Fraction(24), 0), (Fraction(60), 3), (Fraction(30000, 1001), 0)])
def test_uneven_frames_keep_their_moments(tmp_path: Path, fps: Fraction, bframes: int) -> None:
    """At each moment of the new clip its picture is the one that the old one showed, so that the sound fits."""
    data = uneven(tmp_path, bframes)
    given = tmp_path / "uneven.mp4"
    starts, lights = ffmpeg.times_s(given), brightness(given)
    assert max(np.diff(starts)) > 0.19
    assert min(np.diff(starts)) < 0.04
    made = faster(tmp_path, data, fps)
    assert ffmpeg.times_s(made)[0] == pytest.approx(starts[0], abs=0.001)
    for moment, light in zip(ffmpeg.times_s(made), brightness(made), strict=True):
        # A moment that is next to a frame's start, as it is rounded to, may show that frame or the one before.
        shown = {sum(start <= moment + off for start in starts) - 1 for off in (-0.007, 0.007)}
        assert min(abs(light - lights[n]) for n in shown) < 3, moment
    # Out of order, a file's frames are decoded for less time than they are shown: the last one stays as the one before.
    length = float(ffmpeg.length_s(given)) if bframes == 0 else 2 * starts[-1] - starts[-2] - starts[0]
    assert float(ffmpeg.length_s(made)) == pytest.approx(length, abs=0.03)
    assert ffmpeg.times_s(made, "audio") == pytest.approx(ffmpeg.times_s(given, "audio"), abs=0.002)


def test_uneven_frames_of_an_upscaled_clip_keep_theirs(tmp_path: Path) -> None:
    """And the last one's length."""
    made, given = same(tmp_path, uneven(tmp_path)), tmp_path / "uneven.mp4"
    assert ffmpeg.times_s(made) == pytest.approx(ffmpeg.times_s(given), abs=0.001)
    assert float(ffmpeg.length_s(made)) == pytest.approx(float(ffmpeg.length_s(given)), abs=0.002)


@pytest.mark.parametrize("fps", [24, 1, 60])
def test_a_clip_of_four_seconds_stays_one(tmp_path: Path, fps: int) -> None:
    """Its four frames are shown for a second each, the last one too."""
    data = Clip(64, 48, frames=4, fps=1).encode()
    made = faster(tmp_path, data, Fraction(fps))
    assert ffmpeg.length_s(made) == 4
    assert int(ffmpeg.stream(made, "video")["nb_frames"]) == 4 * fps
    assert ffmpeg.length_s(same(tmp_path, data)) == 4


def test_the_last_frame_may_be_shown_for_longer(tmp_path: Path) -> None:
    """As slides are: a second each, and the last one for three."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(4):
            frame = av.VideoFrame.from_image(pattern(64, 48, n))
            frame.pts, frame.time_base = n, Fraction(1)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            start_s = (packet.pts or 0) * packet.time_base
            packet.duration = int((3 if start_s == 3 else 1) / packet.time_base)
            container.mux(packet)
    slides = out.getvalue()
    (tmp_path / "given.mp4").write_bytes(slides)
    assert ffmpeg.length_s(tmp_path / "given.mp4") == 6
    assert ffmpeg.length_s(faster(tmp_path, slides, Fraction(24))) == 6
    assert ffmpeg.length_s(same(tmp_path, slides)) == 6


@pytest.mark.parametrize("text", ["30000/1001", "25", "12.5"])
def test_a_rate_is_exact(tmp_path: Path, text: str) -> None:
    """ffprobe reads the very fraction."""
    made = faster(tmp_path, Clip(64, 48, frames=30, fps=10).encode(), Fraction(text))
    assert Fraction(ffmpeg.stream(made, "video")["avg_frame_rate"]) == Fraction(text)


SOUND = ("-f", "lavfi", "-i", "sine=r=48000:d=1:f=440")
PICTURES = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=1")
X264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "12")


def tone_hz(path: Path) -> float:
    """The loudest frequency of a clip's sound."""
    with av.open(str(path)) as container:
        samples = np.concatenate([f.to_ndarray().astype(np.float64).mean(0).ravel() for f in container.decode(audio=0)])
        rate = container.streams.audio[0].rate
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mov", "pcm_s16le"),
        ("a.mov", "pcm_s24be"),
        ("a.mov", "pcm_mulaw"),
        ("a.mkv", "libvorbis"),
        ("a.mkv", "mp2"),
        ("a.mkv", "pcm_f32le"),
    ],
)
def test_sound_that_no_mp4_carries_becomes_aac(tmp_path: Path, name: str, codec: str) -> None:
    """It is heard from when it was and as long, and goes on with the clip."""
    data = ffmpeg.make(
        tmp_path / name, *PICTURES, *SOUND, *X264, "-c:a", codec, "-ar", 8000 if "mulaw" in codec else 48000
    )
    facts, kept = taken(tmp_path, data)
    assert (facts.notes, bool(facts.sound)) == ((), True)
    for path in (kept, faster(tmp_path, data, Fraction(50))):
        sound = ffmpeg.stream(path, "audio")
        assert sound["codec_name"] == "aac"
        assert float(sound["duration"]) == pytest.approx(1, abs=0.15)
        assert float(sound["start_time"]) == pytest.approx(0, abs=0.03)
        assert tone_hz(path) == pytest.approx(440, abs=3)


def test_sound_that_begins_late_stays_late(tmp_path: Path) -> None:
    """Half a second after the pictures."""
    data = ffmpeg.make(tmp_path / "a.mov", *PICTURES, "-itsoffset", "0.5", *SOUND, *X264, "-c:a", "pcm_s16le", "-t", 1)
    _, kept = taken(tmp_path, data)
    assert float(ffmpeg.stream(kept, "audio")["start_time"]) == pytest.approx(0.5, abs=0.03)


def test_sound_that_is_not_read_is_told(tmp_path: Path) -> None:
    """The clip is taken without it."""
    data = ffmpeg.make(tmp_path / "a.mkv", *PICTURES, *SOUND, *X264, "-c:a", "wmav2")
    facts, kept = taken(tmp_path, data)
    ((code, message),) = facts.notes
    assert (code, facts.sound) == ("sound_dropped", "")
    assert "coded as wmav2" in message
    assert [each["codec_type"] for each in ffmpeg.probe(kept)["streams"]] == ["video"]


def test_further_tracks_are_told(tmp_path: Path) -> None:
    """A commentary and subtitles stay behind, and the answer can say so; the first sound that is read is kept."""
    (tmp_path / "s.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    data = ffmpeg.make(
        tmp_path / "a.mkv", *PICTURES, *SOUND, *SOUND, "-i", tmp_path / "s.srt",
        *("-map", 0, "-map", 1, "-map", 2, "-map", 3),
        *X264, "-c:a", "aac",
    )  # fmt: skip
    facts, kept = taken(tmp_path, data)
    assert facts.notes == (("tracks_dropped", "Further tracks of the clip were dropped: 1 of sound, 1 of subtitles."),)
    assert sorted(each["codec_type"] for each in ffmpeg.probe(kept)["streams"]) == ["audio", "video"]


@pytest.mark.parametrize("parity", ["tff", "bff"])
def test_interlaced_frames_are_combed_no_more(tmp_path: Path, parity: str) -> None:
    """Each frame has one moment, as FFmpeg's own filter makes it, and there are as many as before."""
    # 50 moments a second, woven to 25 frames of two moments each.
    weave = f"tinterlace=mode=interleave_{'top' if parity == 'tff' else 'bottom'},setfield={parity}"
    bar = "color=s=160x96:r=50:d=1,format=yuv420p,geq=lum='40+180*between(mod(X-4*N,160),20,90)':cb=128:cr=128"
    ffmpeg.make(tmp_path / "fields.mp4", "-f", "lavfi", "-i", bar, *X264)
    data = ffmpeg.make(
        tmp_path / "a.mp4", "-f", "lavfi", "-i", bar, "-vf", weave, "-pix_fmt", "yuv420p",
        "-c:v", "libx264", "-crf", "6", "-flags", "+ildct+ilme", "-x264-params", f"{parity}=1",
    )  # fmt: skip
    (tmp_path / "given.mp4").write_bytes(data)
    assert ffmpeg.stream(tmp_path / "given.mp4", "video")["field_order"] in ("tt", "bb", "tb", "bt")
    made = same(tmp_path, data)
    expected = ffmpeg.pictures(tmp_path / "given.mp4", "-vf", "bwdif=mode=send_frame")
    seen = ffmpeg.pictures(made)
    assert len(seen) == len(expected) == 25
    assert np.abs(seen.astype(int) - expected).mean() < 3
    woven, moments = ffmpeg.pictures(tmp_path / "given.mp4"), ffmpeg.pictures(tmp_path / "fields.mp4")[::2]
    assert np.abs(seen.astype(int) - moments).mean() < 0.7 * np.abs(woven.astype(int) - moments).mean()
    assert ffmpeg.stream(made, "video").get("field_order", "progressive") == "progressive"
    assert ffmpeg.times_s(made) == pytest.approx(ffmpeg.times_s(tmp_path / "given.mp4"), abs=0.001)


@pytest.mark.parametrize(
    ("name", "video", "sound"),
    [
        ("a.webm", ("-c:v", "libvpx", "-b:v", "2M"), "libvorbis"),
        ("a.webm", ("-c:v", "libvpx-vp9", "-b:v", "2M"), "libopus"),
        ("a.mkv", (*X264, "-bf", "3"), "aac"),
        ("a.mkv", ("-c:v", "libx265", "-x265-params", "log-level=none"), "flac"),
        ("a.mov", X264, "alac"),
    ],
)
def test_webm_and_matroska(tmp_path: Path, name: str, video: tuple[str, ...], sound: str) -> None:
    """They go on as MP4, with each picture when it was shown, and the sound."""
    data = ffmpeg.make(tmp_path / name, *PICTURES, *SOUND, *video, "-pix_fmt", "yuv420p", "-c:a", sound)
    facts, kept = taken(tmp_path, data)
    assert (facts.width, facts.height, facts.frames, facts.notes) == (64, 48, 25, ())
    assert facts.media_type == "video/mp4"
    assert "mp4" in ffmpeg.probe(kept)["format"]["format_name"]
    starts = ffmpeg.times_s(kept)
    assert np.array(starts) - starts[0] == pytest.approx(np.arange(25) / 25, abs=0.002)
    assert np.abs(ffmpeg.pictures(kept).astype(int) - ffmpeg.pictures(tmp_path / name)).mean() < 2
    assert float(ffmpeg.length_s(kept)) == pytest.approx(1, abs=0.05)
    assert tone_hz(kept) == pytest.approx(440, abs=3)
    assert int(ffmpeg.stream(faster(tmp_path, data, Fraction(50)), "video")["nb_frames"]) in (49, 50)


def test_a_browsers_recording_without_a_length(tmp_path: Path) -> None:
    """MediaRecorder writes WebM that says neither its size nor its length; its limits hold all the same."""
    data = ffmpeg.make(tmp_path / "a.webm", *PICTURES, "-c:v", "libvpx", "-live", 1, "-cluster_time_limit", 500)
    facts, _ = taken(tmp_path, data)
    assert facts.frames == 25
    long = ffmpeg.make(
        tmp_path / "b.webm", "-f", "lavfi", "-i", "testsrc=s=64x48:r=1:d=70", "-c:v", "libvpx", "-live", 1
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        taken(tmp_path, long)
    assert caught.value.code == "too_long"


def test_a_cut_matroska_is_damaged(tmp_path: Path) -> None:
    """Its demuxer takes what there is, and its header says how much there should be."""
    data = ffmpeg.make(tmp_path / "a.mkv", *PICTURES, *X264)
    with pytest.raises(UserError) as caught:
        taken(tmp_path, data[:-400])
    assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "no clip"),
        (b"RIFF\x10\x00\x00\x00AVI LIST", "a clip (AVI)"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(16), "a clip (WMV)"),
        (b"FLV\x01" + bytes(16), "a clip (FLV)"),
        (encoded(pattern(32, 32), "GIF"), "a GIF"),
        (encoded(pattern(32, 32), "PNG"), "a PNG"),
        (encoded(pattern(32, 32), "AVIF"), "an AVIF"),
        (b"%PDF-1.7", "a PDF"),
    ],
)
def test_what_is_no_clip_is_refused_by_its_name(tmp_path: Path, data: bytes, name: str) -> None:
    """The message says what was sent, and what is read."""
    with pytest.raises(UserError) as caught:
        taken(tmp_path, data)
    assert (caught.value.code, caught.value.http_status) == ("not_a_clip", 415)
    assert caught.value.message == f"this is {name}: send MP4, QuickTime, WebM or Matroska"


def test_old_quicktime_has_no_brand(tmp_path: Path) -> None:
    """Its file begins with the first box of its own."""
    data = ffmpeg.make(tmp_path / "a.mov", *PICTURES, *X264)
    size = int.from_bytes(data[:4], "big")
    assert data[4:8] == b"ftyp"
    shifted = bytearray(size.to_bytes(4, "big") + b"wide" + bytes(size - 8) + data[size:])
    assert taken(tmp_path, bytes(shifted))[0].frames == 25
    assert io.BytesIO(shifted).read(8)[4:] == b"wide"
