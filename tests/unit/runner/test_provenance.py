"""What an output's file says of itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import ExifTags, Image

from reelnet.clips import inspect_clip
from reelnet.inspection import check_output
from reelnet.metadata import dissect
from reelnet.pipelines import PIPELINES, MediaSpec
from runner.backend import ModelInfo, Rendered, RunnerJob, Served
from runner.encoding import Encoder
from runner.provenance import MAX_NOTE_BYTES, note_of
from runner.video_codecs import ClipOutput
from runner.video_stream import remade
from tests.fakes.media import Clip
from tests.unit.runner.test_video_stream import opened

DIGEST, LORA = "ab" * 32, "cd" * 32
MODEL = ModelInfo("acme/sd", DIGEST, "float32", (Served("text-to-image", "X"),), loras={"acme/ink": LORA, "other": ""})
ASK = {"prompt": "a red fox", "seed": 7, "metadata": True}
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), np.uint8)
TRACES = (b"escription", b"ImageDesc", b"Exif", b"tEXt", b"iTXt", b"zTXt", b"XMP", b"reelnet", b"fox", b"x264", b"Lav")
KINDS = ("image/png", "image/jpeg", "image/webp", "h264", "av1", "vp9")


def job(pipeline: str = "text-to-image", **asked: Any) -> RunnerJob:
    params = PIPELINES[pipeline].parse({**ASK, **asked})
    return RunnerJob("SECRETJOB", 1, pipeline, params, model=MODEL)


def encoded(kind: str, note: str) -> bytes:
    """A picture of a media type, or a clip of a codec."""
    if "/" in kind:
        spec = MediaSpec("image", 64, 48, media_type=kind)
        return bytes(Encoder().encode(Rendered(0, 7, FRAMES[:1]), spec, note, lambda _: None).data)
    spec = MediaSpec("video", 64, 48, 3, 6, codec=kind)
    return bytes(Encoder().encode(Rendered(0, 7, FRAMES, 6), spec, note, lambda _: None).data)


def read_back(kind: str, data: bytes) -> str | None:
    """The note, by means that every app has."""
    if "/" not in kind:
        with av.open(io.BytesIO(data)) as container:
            return container.metadata.get("description")
    with Image.open(io.BytesIO(data)) as picture:
        if kind == "image/png":
            return picture.info.get("Description")
        return picture.getexif().get(ExifTags.Base.ImageDescription)


def test_a_note_says_how_the_output_came_about() -> None:
    """Software, pipeline, schema, model, LoRAs that were used and all parameters, with this output's own seed."""
    said = json.loads(note_of(job(loras={"acme/ink": 0.5}), 9))
    assert said["software"].startswith("reelnet ")
    assert (said["pipeline"], said["schema"]) == ("text-to-image", PIPELINES["text-to-image"].schema)
    assert (said["model"], said["model_digest"], said["loras"]) == ("acme/sd", DIGEST, {"acme/ink": LORA})
    assert said["params"] | {"seed": 7} == job(loras={"acme/ink": 0.5}).params.model_dump(mode="json")
    assert said["params"]["seed"] == 9


def test_a_note_names_neither_job_nor_time_nor_maker() -> None:
    """Two jobs that ask the same say the same."""
    note = note_of(job(), 7)
    assert "SECRETJOB" not in note
    assert set(json.loads(note)) == {"software", "pipeline", "schema", "model", "model_digest", "loras", "params"}


def test_who_watched_a_picture_come_has_the_same_file() -> None:
    """Previews change no byte of an output, so its note does not speak of them."""
    assert note_of(job(preview_steps=3), 7) == note_of(job(), 7) != note_of(job(guidance_scale=3), 7)


def test_nothing_is_said_unasked() -> None:
    """Only a job that asks for metadata gets any."""
    assert note_of(job(metadata=False), 7) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_apps_read_it_back(kind: str) -> None:
    """PNG's text, EXIF's ImageDescription and MP4's description are the note, and a broadcaster's checks pass it."""
    note = note_of(job(prompt='a "fox" \\ 狐 🦊'), 7)
    data = encoded(kind, note)
    assert read_back(kind, data) == note
    spec = MediaSpec("image", 64, 48, media_type=kind) if "/" in kind else MediaSpec("video", 64, 48, 3, 6, codec=kind)
    check_output(data, kind if "/" in kind else "video/mp4", spec, len(data))
    assert encoded(kind, note) == data


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_nothing_by_itself(kind: str) -> None:
    """No text, no EXIF, no encoder's name; its pixels are those of the file that says something."""
    plain, noted = encoded(kind, ""), encoded(kind, note_of(job(), 7))
    assert [trace for trace in TRACES if trace in plain] == []
    assert plain == encoded(kind, "")
    assert len(noted) > len(plain)
    if "/" in kind:
        with Image.open(io.BytesIO(plain)) as first, Image.open(io.BytesIO(noted)) as second:
            assert (np.asarray(first) == np.asarray(second)).all()
    else:
        assert frames_of(plain) == frames_of(noted)


def frames_of(data: bytes) -> list[bytes]:
    """A clip's coded pictures."""
    with av.open(io.BytesIO(data)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize(
    "prompt", ["\x1b[2J\x00\x07 x \x7f \x9b", "\u202eevil\u2066", "]]>--><script>", "狐" * 9, "🦊", "\u2028\ufeff"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_strangers_text_is_data(kind: str, prompt: str) -> None:
    """Whatever the prompt holds, the file has printable ASCII, and JSON gives the prompt back."""
    note = note_of(job(prompt=prompt), 7)
    assert note.isascii()
    assert note.isprintable()
    found = read_back(kind, encoded(kind, note))
    assert found is not None
    assert json.loads(found)["params"]["prompt"] == prompt


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_cut(kind: str) -> None:
    """The longest prompts of the rarest characters fit into every format; a note that was cut says so."""
    asked = job(prompt="🦊" * 4096, negative_prompt="🐻" * 4096)
    note = note_of(asked, 7)
    assert len(note) <= MAX_NOTE_BYTES
    said = json.loads(note)
    assert said["cut"] is True
    assert said["params"]["prompt"] == "🦊" * len(said["params"]["prompt"]) != ""
    assert read_back(kind, encoded(kind, note)) == note
    assert "cut" not in json.loads(note_of(job(prompt="狐" * 4096, negative_prompt="x" * 4096), 7))


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_that_comes_as_input_loses_it(tmp_path: Path, kind: str) -> None:
    """What a broadcaster passes on to the next node says nothing of how it was made."""
    data = encoded(kind, note_of(job(), 7))
    assert b"fox" in data
    if "/" in kind:
        kept = dissect(data, kind)[1]
    else:
        (tmp_path / "given").write_bytes(data)
        inspect_clip(tmp_path / "given", tmp_path / "kept")
        kept = (tmp_path / "kept").read_bytes()
    assert [trace for trace in TRACES if trace in kept] == []


def test_a_clip_that_is_made_frame_by_frame_says_it_too() -> None:
    """Its writer gets codec and note from the job."""
    given = opened(Clip(frames=3, fps=6))
    params = PIPELINES["upscale-video"].parse({"seed": 7, "metadata": True, "video_codec": "vp9"})
    asked = RunnerJob("j", 1, "upscale-video", params, clips={"video": given}, model=MODEL)
    output = ClipOutput().of(asked)
    data = bytes(remade(given, lambda pixels: pixels, 1, output, lambda _: None).data)
    assert read_back("vp9", data) == note_of(asked, 7) != ""
    check_output(data, "video/mp4", MediaSpec("video", 64, 48, 3, 6, codec="vp9"), len(data))
