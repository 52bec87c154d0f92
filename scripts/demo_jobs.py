"""What the demo asks for: the main job, or every pipeline; small enough for seconds on a CPU."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

from benchmark.client import JobSpec
from benchmark.pool_plan import TINY, TinyModel
from reelnet.clips import ClipLimits, probe_clip
from reelnet.parameters import VIDEO
from reelnet.pipelines import Pipeline, Size, pipeline_named

PHOTO = Path(__file__).resolve().parent.parent / "examples" / "rocket.jpg"
SD, SVD, WAN = "reelnet/tiny-random-sd", "reelnet/tiny-random-svd", "reelnet/tiny-random-wan"
PIX2PIX = "reelnet/tiny-random-instruct-pix2pix"
LORA = "reelnet/ink"
LORAS = json.dumps([{"folder": "ink", "id": LORA}])
SEED = 7
CLIP_SIZE, CLIP_FRAMES, CLIP_FPS = (96, 64), 9, 8
SOUND_HZ = 48_000
PLAIN = (TINY,)
FULL = (
    (
        TinyModel(SD, ("text-to-image", "image-to-image"), {"loras": LORAS}),
        TinyModel(PIX2PIX, ("image-to-image",)),
        TinyModel("reelnet/tiny-random-esrgan", ("upscale", "upscale-video")),
    ),
    (
        TinyModel(SVD, ("image-to-video",)),
        TinyModel(WAN, ("image-to-video",)),
        TinyModel("reelnet/tiny-random-film", ("frame-interpolation",)),
    ),
)
"""What the nodes serve, in turn."""
WORDS = {"prompt": "a rocket on its pad at dawn", "num_inference_steps": 20, "seed": SEED}
Made = Mapping[str, Path]
"""The files of the jobs that are done, by the job's name."""


@dataclass(frozen=True, slots=True)
class Step:
    """One job of the demo: what its file is called, and its request, once the jobs before it are done."""

    name: str
    job: Callable[[Made], JobSpec]
    family: str = ""

    @property
    def title(self) -> str:
        """What a person reads."""
        return self.name.replace("_", " ")

    def kind(self, job: JobSpec) -> Pipeline:
        """The job's pipeline."""
        return pipeline_named(job.pipeline, self.family)


def plain() -> list[Step]:
    """Words become a picture, and a photograph a video."""
    return [
        Step("text-to-image", lambda _: JobSpec("text-to-image", {**WORDS, "width": 512, "height": 512})),
        Step("image-to-video", lambda _: JobSpec("image-to-video", _clip(fps=6), files=_photo())),
    ]


def full() -> list[Step]:
    """Every pipeline; what one makes goes into the next where it fits."""
    sound = sounding_clip()
    drawn = {**WORDS, "width": 256, "height": 256, "metadata": True}
    changed = {**WORDS, "strength": 0.6, "loras": {LORA: 0.8}, "output_format": "webp"}
    words = {"prompt": WORDS["prompt"], "num_frames": 9, "num_inference_steps": 4, "width": 128, "height": 96}
    return [
        Step("text-to-image", lambda _: JobSpec("text-to-image", drawn)),
        Step("image-to-image_with_a_LoRA", lambda made: JobSpec("image-to-image", changed, SD, _drawn(made))),
        Step(
            "image-to-image_by_instruction",
            lambda made: JobSpec("image-to-image", {**WORDS, "prompt": "make it night"}, PIX2PIX, _drawn(made)),
            family="pix2pix",
        ),
        Step("upscale", lambda made: JobSpec("upscale", {"seed": SEED}, files=_drawn(made))),
        Step(
            "image-to-video_at_24_fps",
            lambda _: JobSpec("image-to-video", _clip(192, fps=7, interpolate_to_fps=24), SVD, _photo()),
        ),
        Step(
            "image-to-video_with_words",
            lambda made: JobSpec("image-to-video", {**words, "video_codec": "av1", "seed": SEED}, WAN, _drawn(made)),
            family="wan",
        ),
        Step(
            "frame-interpolation",
            lambda _: JobSpec("frame-interpolation", {"fps": 24, "seed": SEED}, files={VIDEO: ("clip.mp4", sound)}),
        ),
        Step(
            "upscale-video_with_sound",
            lambda _: JobSpec("upscale-video", {"seed": SEED}, files={VIDEO: ("clip.mp4", sound)}),
        ),
    ]


def source(job: JobSpec) -> Size | None:
    """The size of a job's input."""
    for name, (_, data) in job.files.items():
        if name == VIDEO:
            return probe_clip(data, ClipLimits(CLIP_FRAMES, 60, 2**20))
        with Image.open(io.BytesIO(data)) as picture:
            return Size(*picture.size)
    return None


def sounding_clip() -> bytes:
    """The photograph, moved along from frame to frame, under a tone."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=CLIP_FPS)
        video.width, video.height = CLIP_SIZE
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=SOUND_HZ, layout="mono")
        for frame in _moving():
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for tone in _tone(CLIP_FRAMES / CLIP_FPS):
            container.mux(sound.encode(tone))
        container.mux(sound.encode())
    return out.getvalue()


def _moving() -> Iterator[av.VideoFrame]:
    with Image.open(PHOTO) as photo:
        wide = photo.convert("RGB").resize((CLIP_SIZE[0] * 2, CLIP_SIZE[1] * 2))
    for index in range(CLIP_FRAMES):
        left, top = index * CLIP_SIZE[0] // CLIP_FRAMES, index * CLIP_SIZE[1] // CLIP_FRAMES
        yield av.VideoFrame.from_image(wide.crop((left, top, left + CLIP_SIZE[0], top + CLIP_SIZE[1])))


def _tone(seconds: float) -> Iterator[av.AudioFrame]:
    """440 Hz, in the frames of 1024 samples that AAC takes."""
    for start in range(0, int(seconds * SOUND_HZ), 1024):
        wave = np.sin(np.arange(start, start + 1024) * (2 * np.pi * 440 / SOUND_HZ)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None, :] * 0.5, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SOUND_HZ, start
        yield frame


def _clip(side: int = 256, **more: object) -> dict[str, object]:
    return {"width": side, "height": side, "num_frames": 14, "num_inference_steps": 5, "seed": SEED, **more}


def _photo() -> dict[str, tuple[str, bytes]]:
    return {"image": (PHOTO.name, PHOTO.read_bytes())}


def _drawn(made: Made) -> dict[str, tuple[str, bytes]]:
    """The first job's picture."""
    file = made["text-to-image"]
    return {"image": (file.name, file.read_bytes())}
