"""Clips that apps send: what is taken, what is refused before it is decoded, and what of it goes on."""

from __future__ import annotations

import contextlib
import hashlib
import io
from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reelnet.clips import ClipFacts, ClipLimits, inspect_clip, probe_clip
from reelnet.errors import NodeError, ReelnetError, UserError
from reelnet.inspection import check_output
from reelnet.pipelines import MediaSpec
from tests.fakes.media import Clip, encoded, pattern

SMALL = Clip(frames=5, fps=Fraction(30000, 1001), sound=True, place="SECRETPLACE")
DATA = SMALL.encode()
LIMITS = ClipLimits(max_frames=20, max_s=4, max_pixels=10_000)


def inspected(folder: Path, data: bytes, limits: ClipLimits = LIMITS) -> tuple[ClipFacts, bytes]:
    """The facts of a clip, and the copy that goes to a node."""
    (folder / "given").write_bytes(data)
    facts = inspect_clip(folder / "given", folder / "kept", limits)
    return facts, (folder / "kept").read_bytes()


def refused(folder: Path, data: bytes, limits: ClipLimits = LIMITS) -> UserError:
    """Why a clip is refused."""
    with pytest.raises(UserError) as caught:
        inspected(folder, data, limits)
    assert caught.value.loc == ("video",)
    return caught.value


def test_the_facts_are_those_of_the_copy(tmp_path: Path) -> None:
    """Size, digest, frames, exact rate and sound are what a node finds in the bytes that it gets."""
    facts, kept = inspected(tmp_path, DATA)
    assert (facts.size, facts.sha256) == (len(kept), hashlib.sha256(kept).hexdigest())
    assert (facts.width, facts.height, facts.frames) == (64, 48, 5)
    assert Fraction(facts.fps, facts.fps_den) == Fraction(30000, 1001)
    assert probe_clip(kept) == facts.source == probe_clip(DATA)
    assert not facts.constant


def test_the_packets_of_a_clips_sound_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound cut into more pieces than its seconds need is refused before it is copied or decoded."""
    with av.open(io.BytesIO(DATA)) as container:
        packets = sum(bool(packet.size) for packet in container.demux(audio=0))
    monkeypatch.setattr("reelnet.clip_streams.MAX_SOUND_PACKETS", packets)
    assert inspected(tmp_path, DATA)[0].sound
    monkeypatch.setattr("reelnet.clip_streams.MAX_SOUND_PACKETS", packets - 1)
    error = refused(tmp_path, DATA)
    assert (error.code, error.http_status) == ("too_long", 413)


def test_nothing_but_pictures_and_sound_goes_on(tmp_path: Path) -> None:
    """Titles, further streams and the like stay behind; the pictures and the sound are the same packets."""
    out = io.BytesIO()
    with av.open(io.BytesIO(DATA)) as given, av.open(out, "w", format="mp4") as container:
        container.metadata["title"] = "SECRETPLACE"
        kept = {stream.index: container.add_stream_from_template(stream) for stream in given.streams}
        second = container.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux():
            if packet.size:
                packet.stream = second if packet.stream.type == "audio" else kept[packet.stream.index]
                container.mux(packet)
    facts, data = inspected(tmp_path, out.getvalue())
    assert b"SECRETPLACE" in out.getvalue()
    assert b"SECRETPLACE" not in data
    with av.open(io.BytesIO(data)) as container:
        assert len(container.streams) <= 2
    assert packets(data, "video") == packets(DATA, "video")
    assert facts.frames == 5


def packets(data: bytes, kind: str) -> list[bytes]:
    """The bytes of each packet of a kind."""
    with av.open(io.BytesIO(data)) as container:
        return [bytes(p) for p in container.demux() if p.size and p.stream.type == kind]


@pytest.mark.parametrize(
    ("clip", "code", "status"),
    [
        (Clip(frames=21, fps=30), "too_long", 413),
        (Clip(frames=20, fps=4), "too_long", 413),
        (Clip(width=128, height=96, frames=2), "too_large", 413),
        (Clip(width=8, height=48, frames=2), "too_small", 422),
        (Clip(codec="mpeg2video", fps=25, frames=2), "codec", 415),
        (Clip(frames=2, rotation=45), "rotation", 422),
    ],
)
def test_what_a_clip_claims_is_bounded(tmp_path: Path, clip: Clip, code: str, status: int) -> None:
    """Each bound has its code."""
    error = refused(tmp_path, clip.encode())
    assert (error.code, error.http_status) == (code, status)


def test_a_clip_over_a_bound_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its claims alone refuse it."""

    def decoding(*_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("reelnet.clips._decode_whole", decoding)
    assert refused(tmp_path, Clip(width=128, height=96, frames=2).encode()).code == "too_large"
    assert refused(tmp_path, Clip(frames=21, fps=30).encode()).code == "too_long"


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_the_size_is_the_one_that_is_seen(tmp_path: Path, rotation: int) -> None:
    """A turned clip is as wide as it is shown, and its copy is turned as before."""
    facts, kept = inspected(tmp_path, Clip(frames=2, rotation=rotation).encode())
    assert (facts.width, facts.height) == ((48, 64) if rotation % 180 else (64, 48))
    with av.open(io.BytesIO(kept)) as container:
        assert next(container.decode(video=0)).rotation % 360 == rotation % 360


@pytest.mark.parametrize("data", [b"", b"<html>", encoded(pattern(64, 48), "PNG"), b"\0\0\0\x20ftypisom" + bytes(80)])
def test_what_is_no_clip_is_refused(tmp_path: Path, data: bytes) -> None:
    """By its first bytes, or because nothing is in it."""
    assert refused(tmp_path, data).http_status == 415


def test_a_sound_without_pictures_is_no_clip(tmp_path: Path) -> None:
    """The message says so."""
    out = io.BytesIO()
    with av.open(io.BytesIO(DATA)) as given, av.open(out, "w", format="mp4") as container:
        (stream,) = given.streams.audio
        kept = container.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.size:
                packet.stream = kept
                container.mux(packet)
    assert refused(tmp_path, out.getvalue()).code == "not_a_clip"


@given(st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_ends_typed(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a file holds, the answer is facts or one of our errors, for the broadcaster and the runner alike."""
    changed = bytearray(DATA)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(8, len(changed) - 1))] = data.draw(st.integers(0, 255))
    for check in (lambda: inspected(tmp_path, bytes(changed)), lambda: probe_clip(bytes(changed), LIMITS)):
        with contextlib.suppress(ReelnetError):
            check()


def spec(**changes: object) -> MediaSpec:
    """What SMALL promises when it comes back as it is."""
    found = probe_clip(DATA)
    values: dict[str, object] = {
        "frames": found.frames, "fps": found.fps, "fps_den": found.fps_den, "sound": found.sound, **changes
    }  # fmt: skip
    return MediaSpec("video", 64, 48, **values)  # type: ignore[arg-type]


def test_an_output_with_the_input_s_sound_is_delivered() -> None:
    """The rational rate and the very packets of sound."""
    facts = check_output(DATA, "video/mp4", spec(), 10**6)
    assert facts.fps == pytest.approx(29.97, abs=0.01)


@pytest.mark.parametrize(
    ("delivered", "asked", "code"),
    [
        (Clip(frames=5, fps=Fraction(30000, 1001)), spec(), "media_type"),
        (SMALL, spec(sound=""), "media_type"),
        (SMALL, spec(sound="0" * 64), "sound"),
        (SMALL, spec(fps=25, fps_den=1), "fps"),
        (Clip(frames=5, fps=Fraction(30000, 1001), rotation=180), spec(sound=""), "size"),
    ],
)
def test_another_sound_or_rate_is_the_node_s_failure(delivered: Clip, asked: MediaSpec, code: str) -> None:
    """A node can neither drop, add nor change the sound, nor have the player turn the pictures."""
    with pytest.raises(NodeError) as caught:
        check_output(delivered.encode(), "video/mp4", asked, 10**6)
    assert caught.value.code == code


@pytest.mark.parametrize("table", [b"stsz", b"stts", b"stsc", b"stco"])
def test_a_table_that_claims_more_than_there_is_is_damage(tmp_path: Path, table: bytes) -> None:
    """A few bytes that say four billion entries cost no process its memory, and an empty copy is no fault of ours."""
    data = bytearray(Clip(64, 64, frames=4, codec="libx264").encode())
    at = data.index(table) + 8
    for count in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"):
        data[at : at + 4] = count
        (tmp_path / "given").write_bytes(data)
        with contextlib.suppress(UserError):
            inspect_clip(tmp_path / "given", tmp_path / "clean", ClipLimits(64, 10, 256 * 256))


def test_a_clip_without_a_frame_is_refused(tmp_path: Path) -> None:
    """Its copy would be no file at all."""
    data = bytearray(Clip(64, 64, frames=4, codec="libx264").encode())
    for table in (b"stsz", b"stts", b"stsc", b"stco"):
        at = data.index(table) + (12 if table == b"stsz" else 8)
        data[at : at + 4] = bytes(4)
    (tmp_path / "given").write_bytes(data)
    with pytest.raises(UserError) as refused:
        inspect_clip(tmp_path / "given", tmp_path / "clean", ClipLimits(64, 10, 256 * 256))
    assert refused.value.code == "damaged"
