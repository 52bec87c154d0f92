"""Prompts for the scenes of the toy world."""

from __future__ import annotations

import numpy as np

from runner.toyworld.scenes import COLOURS, PLACES, SHAPES, SIZES, Scene

MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Where a shape of a clip goes, x to the right and y downwards."""
ASIDES = (
    "a picture of",
    "a photo of",
    "please draw",
    "an image of",
    "in the style of a logo",
    "very nice",
    "minimal",
    "flat",
)
"""Words that change nothing."""
_SMALL = ("a", "an", "on", "in", "at", "the", "of", "with", "and", "center", "background")
VOCABULARY = tuple(dict.fromkeys([*SHAPES, *COLOURS, *PLACES, *SIZES, *_SMALL, *" ".join(ASIDES).split()]))
CLIP_VOCABULARY = tuple(dict.fromkeys([*VOCABULARY, *MOVES, "moves", "goes", "to", "that", "shape"]))
"""For the model of clips: words of how a shape moves, too."""


def say(scene: Scene) -> str:
    """All of a scene: `a small red circle on the left, blue background`."""
    thing = f"{_article(scene.size)} {scene.size} {scene.colour} {scene.shape}"
    return f"{thing} {_there(scene.place, 'on')}, {scene.ground} background"


def say_somehow(scene: Scene, random: np.random.Generator) -> str:
    """A scene in one of several wordings, some of which leave parts unsaid."""

    def perhaps(word: str, part: float) -> str:
        return word if random.random() < part else ""

    thing = " ".join(filter(None, (perhaps(scene.size, 0.65), perhaps(scene.colour, 0.95), scene.shape)))
    ground, place = perhaps(scene.ground, 0.9), perhaps(scene.place, 0.65)
    named = f"{_article(thing)} {thing}"
    wording = random.integers(4)
    if wording == 0:
        text = named + (f" on {ground}" if ground else "") + (f", {place}" if place else "")
    elif wording == 1:
        text = named + (f" {_there(place, 'on')}" if place else "") + (f", {ground} background" if ground else "")
    elif wording == 2:
        text = named + (f" {_there(place, 'at')}" if place else "") + (f" on a {ground} background" if ground else "")
    else:
        text = ", ".join(filter(None, (thing, ground and f"{ground} background", place)))
    return _with_aside(text, random) if random.random() < 0.15 else text


def _with_aside(text: str, random: np.random.Generator) -> str:
    """With words around it that the world does not know, or that change nothing."""
    if random.random() < 0.5:
        aside = ASIDES[random.integers(len(ASIDES))]
    else:
        aside = "".join(chr(97 + letter) for letter in random.integers(0, 26, random.integers(2, 8)))
    return f"{aside} {text}" if random.random() < 0.5 else f"{text} {aside}"


def _article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _there(place: str, preposition: str) -> str:
    return "in the centre" if place == "centre" else f"{preposition} the {place}"


def say_move(scene: Scene, move: str, random: np.random.Generator) -> str:
    """What a clip shows: `the red circle moves to the left`, or less."""
    named = (scene.shape, f"{scene.colour} {scene.shape}", "shape")[random.integers(3)]
    verb = ("moves", "goes")[random.integers(2)]
    there = move if move in ("up", "down") or random.random() < 0.3 else f"to the {move}"
    return (f"the {named} {verb} {there}", f"{verb} {there}", f"a {named} that {verb} {there}")[random.integers(3)]
