"""What the demo's files have to show: each is read again from its file, and every frame is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import av
import numpy as np
from PIL import Image

from runner.toyworld.scenes import FACTORS, Pixels, Scene
from runner.toyworld.sight import follow, look
from runner.toyworld.words import say

Made = Mapping[str, Path]
"""The files of the jobs that are done, by the job's name."""
Sight = Callable[[Path, Made], str]
"""Says what a file shows. Raises SightError where it is not what was asked."""
MOST_APART = 16.0
"""Mean difference of a clip's first frame from the picture that it begins with, of 255."""
LEAST_WAY = 0.2
"""Parts of the side that the shape moves."""
BACK = -0.01
"""Parts of the side that the shape may seem to go back from one frame to the next."""


class SightError(Exception):
    """A file shows something else; the text says what."""


def picture_shows(file: Path, scene: Scene) -> str:
    """Of a picture: that it is the scene, in shape, colour, ground, place and size."""
    seen = look(read_picture(file))
    if any(getattr(seen, name) != getattr(scene, name) for name in FACTORS):
        shown = say(Scene(seen.shape, seen.colour, seen.ground, seen.place, seen.size)) if seen.shape else "no shape"
        raise SightError(f"it shows {shown}, not {say(scene)}")
    return say(scene)


def clip_moves(file: Path, begins_with: Path, scene: Scene, move: str) -> str:
    """Of a clip: that it begins with the picture, and that in all frames the same shape goes one way."""
    frames = read_clip(file)
    apart = float(np.abs(frames[0] - read_picture(begins_with)).mean() * 255)
    if apart > MOST_APART:
        raise SightError(f"its first frame is {apart:.1f} of 255 from the picture that it was to begin with")
    walk = follow(frames)
    what = _same_things((walk.shape, walk.colour, walk.ground), scene)
    far = max(map(abs, walk.way))
    if walk.heading != move or far < LEAST_WAY or min(walk.steps) < BACK:
        raise SightError(
            f"the {scene.shape} was to move {move}, and went {far:.2f} of the side {walk.heading or 'nowhere'}"
        )
    begins = f"begins with the picture ({apart:.1f} of 255 from it)"
    return f"{begins}; {len(frames)} frames, {what} in each, which moves {move}"


def read_picture(file: Path) -> Pixels:
    """(height, width, 3) in 0…1."""
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).astype(np.float32) / 255


def read_clip(file: Path) -> list[Pixels]:
    """Every frame, as `read_picture`."""
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="rgb24").astype(np.float32) / 255 for frame in container.decode(video=0)]


def _same_things(seen: tuple[str, str, str], scene: Scene) -> str:
    shape, colour, ground = seen
    if seen != (scene.shape, scene.colour, scene.ground):
        shown = f"a {colour or 'changing'} {shape or 'changing shape'} on {ground or 'a changing ground'}"
        raise SightError(f"it shows {shown}, not a {scene.colour} {scene.shape} on {scene.ground}")
    return f"a {colour} {shape} on {ground}"
