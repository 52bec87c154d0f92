"""What the demo asks for, and how it looks at what it gets."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from PIL import Image

from reelnet.pipelines import FAMILIES
from runner.toyworld.scenes import Pixels, Scene, draw
from runner.toyworld.words import say

CIRCLE = Scene("circle", "red", "blue")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    """scripts/demo_jobs.py, which is no package's."""
    names = ("demo_sights", "demo_jobs")
    for name in names:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
        spec.loader.exec_module(sys.modules[name])
    module = sys.modules["demo_jobs"]
    module.SightError = sys.modules["demo_sights"].SightError
    yield module
    for name in names:
        del sys.modules[name]


def test_the_full_demo_has_every_pipeline_of_every_family(demo: ModuleType) -> None:
    """Its requests are valid, each has one result, and some node of its plan serves it."""
    made = {"text-to-image": ROOT / "examples" / "rocket.jpg"}
    served = {(name, tiny.model) for models in demo.FULL for tiny in models for name in tiny.pipelines}
    seen = set()
    for step in demo.full():
        job = step.job(made)
        pipeline = step.kind(job)
        seen.add((pipeline.name, pipeline.family))
        (promise,) = pipeline.promises(pipeline.parse(job.params), demo.source(job))
        assert promise.width > 0
        assert any(name == job.pipeline and job.model in (None, model) for name, model in served)
    assert seen == FAMILIES.keys()


def test_the_clip_has_sound(demo: ModuleType) -> None:
    """So that an upscaled one shows that it is kept."""
    files = {"video": ("clip.mp4", demo.sounding_clip())}
    found = demo.source(demo.JobSpec("upscale-video", {}, files=files))
    assert (found.width, found.height, found.frames) == (96, 64, 9)
    assert found.sound


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A picture of a red circle on blue."""
    return save(tmp_path / "made.png", draw(CIRCLE))


def save(file: Path, picture: Pixels) -> Path:
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(file)
    return file


def film(file: Path, pictures: Iterable[Pixels]) -> Path:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray((picture * 255).round().astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def going(step: float, scene: Scene = CIRCLE, frames: int = 9) -> list[Pixels]:
    return [draw(scene, moved=(step * at, 0)) for at in range(frames)]


def test_a_right_picture_and_clip_are_told_of(demo: ModuleType, made: Path, tmp_path: Path) -> None:
    """In the words of what was asked for."""
    assert demo.picture_shows(made, CIRCLE) == "a big red circle in the centre, blue background"
    told = demo.clip_moves(film(tmp_path / "a.mp4", going(0.03)), made, CIRCLE, "right")
    assert told.startswith("begins with the picture (")
    assert told.endswith("9 frames, a red circle on blue in each, which moves right")


@pytest.mark.parametrize(
    "other",
    [Scene("square", "red", "blue"), Scene("circle", "green", "white"), Scene("circle", "red", "blue", "top", "small")],
)
def test_a_wrong_picture_fails_the_demo(demo: ModuleType, tmp_path: Path, other: Scene) -> None:
    """The text says what it shows."""
    with pytest.raises(demo.SightError, match=f"shows {say(other)}, not a big red circle"):
        demo.picture_shows(save(tmp_path / "other.png", draw(other)), CIRCLE)


def test_a_picture_of_nothing_fails_the_demo(demo: ModuleType, tmp_path: Path) -> None:
    """Noise of a model that has learned nothing, and a flat picture."""
    flat = np.full((128, 128, 3), 0.5)
    with pytest.raises(demo.SightError, match="it shows no shape, not a big red circle"):
        demo.picture_shows(save(tmp_path / "flat.png", flat), CIRCLE)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (going(0), "was to move right, and went 0.00 of the side nowhere"),
        (going(-0.03), "side left"),
        (going(0.015), "side right"),
        (going(0.05, frames=5) + going(0.03), "side right"),
        (going(0.03, Scene("circle", "red", "green")), "from the picture that it was to begin with"),
        (going(0.03)[:4] + going(0.03, Scene("star", "red", "blue"))[4:], "changing shape"),
    ],
    ids=["still", "back", "hardly", "with a jump back", "another picture", "another shape"],
)
def test_a_wrong_clip_fails_the_demo(
    demo: ModuleType, made: Path, tmp_path: Path, frames: list[Pixels], said: str
) -> None:
    """Every frame is looked at."""
    with pytest.raises(demo.SightError, match=said):
        demo.clip_moves(film(tmp_path / "a.mp4", frames), made, CIRCLE, "right")
