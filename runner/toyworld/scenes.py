"""The scenes of the toy world: one flat shape on a flat ground, drawn with numpy and put into words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.floating[Any]]
"""(side, side, 3) for a picture, (side, side) for a mask; each number is in 0…1."""
SIDE = 128
"""Width and height of the pictures that the models were trained on."""
SHAPES = ("circle", "square", "triangle", "star", "ring")
COLOURS = {
    "red": (205, 35, 45),
    "orange": (250, 135, 10),
    "yellow": (250, 215, 50),
    "green": (35, 150, 75),
    "blue": (35, 85, 200),
    "purple": (130, 50, 165),
    "white": (245, 245, 245),
    "black": (22, 22, 26),
}
PLACES = {"left": (0.34, 0.5), "right": (0.66, 0.5), "top": (0.5, 0.34), "bottom": (0.5, 0.66), "centre": (0.5, 0.5)}
"""Middle of the shape, x to the right and y downwards, as parts of the side."""
SIZES = {"small": 0.21, "big": 0.30}
"""Radius of the shape as a part of the side."""
FACTORS = ("shape", "colour", "ground", "place", "size")
"""What a scene consists of."""
PALETTE = np.array(list(COLOURS.values()), np.float32) / 255
"""(8, 3) in the order of COLOURS."""
_NUDGE = 0.02
_STRETCH = 0.04
_NEW_OF = 10


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is to draw, and how far it lies from the middle of its place and size."""

    shape: str
    colour: str
    ground: str
    place: str = "centre"
    size: str = "big"
    nudge: tuple[float, float] = (0.0, 0.0)
    stretch: float = 1.0


def any_scene(random: np.random.Generator, wanted: Callable[[Scene], bool] = lambda _: True) -> Scene:
    """A scene by chance, of those that are `wanted`."""
    while True:
        colour, ground = random.choice(len(COLOURS), 2, replace=False)
        scene = Scene(
            _pick(random, SHAPES),
            list(COLOURS)[colour],
            list(COLOURS)[ground],
            _pick(random, tuple(PLACES)),
            _pick(random, tuple(SIZES)),
            (float(random.uniform(-_NUDGE, _NUDGE)), float(random.uniform(-_NUDGE, _NUDGE))),
            float(random.uniform(1 - _STRETCH, 1 + _STRETCH)),
        )
        if wanted(scene):
            return scene


def is_new(scene: Scene) -> bool:
    """Whether the models never saw this shape in this colour on this ground: a tenth of all combinations."""
    names = list(COLOURS)
    number = (SHAPES.index(scene.shape) * 8 + names.index(scene.colour)) * 8 + names.index(scene.ground)
    return number * 7919 % 1009 % _NEW_OF == 0


def draw(scene: Scene, side: int = SIDE, moved: tuple[float, float] = (0.0, 0.0)) -> Pixels:
    """The scene's picture, its shape `moved` by parts of the side."""
    x, y = PLACES[scene.place]
    middle = (x + scene.nudge[0] + moved[0], y + scene.nudge[1] + moved[1])
    inside = mask(scene.shape, middle, SIZES[scene.size] * scene.stretch, side)[..., None]
    return inside * _paint(scene.colour) + (1 - inside) * _paint(scene.ground)


def mask(shape: str, middle: tuple[float, float], radius: float, side: int = SIDE) -> Pixels:
    """How much of each pixel the shape covers. Middle and radius are parts of the side."""
    steps = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / side
    x, y = np.meshgrid((steps - middle[0]) / radius, (steps - middle[1]) / radius)
    covered: Pixels = np.clip(0.5 - _OUTLINES[shape](x, y) * (radius * side), 0, 1).astype(np.float32)
    return covered


def _paint(name: str) -> Pixels:
    colour: Pixels = PALETTE[list(COLOURS).index(name)]
    return colour


def _pick(random: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[random.integers(len(names))]


# Signed distances from the outline of a shape of radius 1 at the origin, y downwards; less than 0 is inside.


def _circle(x: Pixels, y: Pixels) -> Pixels:
    return np.asarray(np.hypot(x, y) - 1)


def _ring(x: Pixels, y: Pixels) -> Pixels:
    return np.asarray(np.abs(np.hypot(x, y) - 0.78) - 0.22)


def _square(x: Pixels, y: Pixels) -> Pixels:
    return np.asarray(np.maximum(np.abs(x), np.abs(y)) - 0.86)


def _triangle(x: Pixels, y: Pixels) -> Pixels:
    """Of equal sides, its top upwards."""
    return np.asarray(np.maximum(np.sqrt(0.75) * np.abs(x) - 0.5 * y, y) - 0.55)


def _star(x: Pixels, y: Pixels) -> Pixels:
    """Of five points, one upwards: the distance from the edge of the nearest tenth, for a radius of 1.1."""
    angle = np.arctan2(x, -y)
    turn = 2 * np.pi / 5
    folded = np.abs(angle - turn * np.round(angle / turn))
    far = np.hypot(x, y)
    px, py = far * np.sin(folded), far * np.cos(folded)
    tip = np.array([0.0, 1.1])
    notch = 0.46 * np.array([np.sin(turn / 2), np.cos(turn / 2)])
    along = (notch - tip) / np.linalg.norm(notch - tip)
    return np.asarray(px * -along[1] + (py - tip[1]) * along[0], np.float32)


_OUTLINES: dict[str, Callable[[Pixels, Pixels], Pixels]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
}
