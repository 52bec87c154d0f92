"""What the demo asks for: the main job, or every pipeline; small enough for seconds on a CPU."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from demo_sights import Made, Sight, clip_moves, picture_shows
from PIL import Image

from benchmark.client import JobSpec
from benchmark.pool_plan import TinyModel
from reelnet.clips import ClipLimits, probe_clip
from reelnet.parameters import VIDEO
from reelnet.pipelines import Pipeline, Size, pipeline_named
from runner.toyworld.scenes import SIDE, Scene
from runner.toyworld.trained import CLIP, PICTURE
from runner.toyworld.words import say

PHOTO = Path(__file__).resolve().parent.parent / "examples" / "rocket.jpg"
SD, SVD = "reelnet/tiny-random-sd", "reelnet/tiny-random-svd"
PIX2PIX = "reelnet/tiny-random-instruct-pix2pix"
LORA = "reelnet/ink"
LORAS = json.dumps([{"folder": "ink", "id": LORA}])
SEED = 7
CLIP_SIZE, CLIP_FRAMES, CLIP_FPS = (96, 64), 9, 8
SOUND_HZ = 48_000
PLAIN = ((TinyModel(PICTURE, ("text-to-image",)), TinyModel(CLIP, ("image-to-video",))),)
FULL = (
    (
        TinyModel(PICTURE, ("text-to-image",)),
        TinyModel(SD, ("image-to-image",), {"loras": LORAS}),
        TinyModel(PIX2PIX, ("image-to-image",)),
        TinyModel("reelnet/tiny-random-esrgan", ("upscale", "upscale-video")),
    ),
    (
        TinyModel(SVD, ("image-to-video",)),
        TinyModel(CLIP, ("image-to-video",)),
        TinyModel("reelnet/tiny-random-film", ("frame-interpolation",)),
    ),
)
"""What the nodes serve, in turn."""
WORDS = {"prompt": "a rocket on its pad at dawn", "num_inference_steps": 20, "seed": SEED}
SCENE, MOVE = Scene("circle", "red", "blue", "left", "small"), "right"
DRAWN = {
    "prompt": say(SCENE),
    "width": SIDE,
    "height": SIDE,
    "num_inference_steps": 12,
    "guidance_scale": 2.5,
    "seed": SEED,
}
"""What the model of the toy world was trained for."""
MOVED = {
    "prompt": f"the {SCENE.shape} moves to the {MOVE}",
    "width": SIDE,
    "height": SIDE,
    "num_frames": 9,
    "fps": 8,
    "num_inference_steps": 8,
    "guidance_scale": 2,
    "seed": SEED,
}


@dataclass(frozen=True, slots=True)
class Step:
    """One job of the demo: what its file is called, and its request, once the jobs before it are done."""

    name: str
    job: Callable[[Made], JobSpec]
    family: str = ""
    sight: Sight | None = None
    """Looks whether the job's file shows what was asked, where the model has learned to."""

    @property
    def title(self) -> str:
        """What a person reads."""
        return self.name.replace("_", " ")

    def kind(self, job: JobSpec) -> Pipeline:
        """The job's pipeline."""
        return pipeline_named(job.pipeline, self.family)


def plain() -> list[Step]:
    """Words become a picture, and the picture a video."""
    return [_drawing({}), _moving_it("image-to-video", {})]


def full() -> list[Step]:
    """Every pipeline; what one makes goes into the next where it fits."""
    sound = sounding_clip()
    changed = {**WORDS, "strength": 0.6, "loras": {LORA: 0.8}, "output_format": "webp"}
    return [
        _drawing({"metadata": True}),
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
        _moving_it("image-to-video_with_words", {"video_codec": "av1"}),
        Step(
            "frame-interpolation",
            lambda _: JobSpec("frame-interpolation", {"fps": 24, "seed": SEED}, files={VIDEO: ("clip.mp4", sound)}),
        ),
        Step(
            "upscale-video_with_sound",
            lambda _: JobSpec("upscale-video", {"seed": SEED}, files={VIDEO: ("clip.mp4", sound)}),
        ),
    ]


def _drawing(more: Mapping[str, object]) -> Step:
    """Words become a picture."""
    return Step(
        "text-to-image",
        lambda _: JobSpec("text-to-image", DRAWN | more, PICTURE),
        sight=lambda file, _: picture_shows(file, SCENE),
    )


def _moving_it(name: str, more: Mapping[str, object]) -> Step:
    """The picture becomes a video."""
    return Step(
        name,
        lambda made: JobSpec("image-to-video", MOVED | more, CLIP, _drawn(made)),
        family="wan",
        sight=lambda file, made: clip_moves(file, made["text-to-image"], SCENE, MOVE),
    )


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


def _clip(side: int, **more: object) -> dict[str, object]:
    return {"width": side, "height": side, "num_frames": 14, "num_inference_steps": 5, "seed": SEED, **more}


def _photo() -> dict[str, tuple[str, bytes]]:
    return {"image": (PHOTO.name, PHOTO.read_bytes())}


def _drawn(made: Made) -> dict[str, tuple[str, bytes]]:
    """The first job's picture."""
    file = made["text-to-image"]
    return {"image": (file.name, file.read_bytes())}
