"""The toy world: what is drawn is what is said, and the reader of pictures sees what was drawn."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from runner.backend import SetupError
from runner.cli import cli
from runner.models import tiny
from runner.models.digest import survey
from runner.self_test import QUESTIONS, SelfTest, difference
from runner.settings import RunnerSettings
from runner.toyworld import trained
from runner.toyworld.scenes import COLOURS, FACTORS, PLACES, SHAPES, SIDE, SIZES, Pixels, Scene, any_scene, draw, is_new
from runner.toyworld.sight import follow, look
from runner.toyworld.words import CLIP_VOCABULARY, MOVES, VOCABULARY, say, say_move, say_somehow
from tests.fakes.toy_world import Painter, changed

RED_CIRCLE = Scene("circle", "red", "blue")


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_kind_of_scene_is_read_right() -> None:
    """Each shape, place and size, and more scenes by chance, nudged and stretched: nothing is told."""
    all_kinds = [Scene(*kind) for kind in itertools.product(SHAPES, ("red",), ("blue",), PLACES, SIZES)]
    generator = random(5)
    for scene in [*all_kinds, *(any_scene(generator) for _ in range(30))]:
        seen = look(draw(scene))
        assert [getattr(seen, name) for name in FACTORS] == [getattr(scene, name) for name in FACTORS], scene
        assert seen.overlap > 0.95
        assert seen.colour_error < 3


@pytest.mark.parametrize("side", [64, 200])
def test_the_reader_takes_any_size(side: int) -> None:
    """Nothing in it counts pixels of one size."""
    assert look(draw(RED_CIRCLE, side)).shape == "circle"


def test_every_pair_of_colours_is_told_apart() -> None:
    """Also white on yellow, and black on purple."""
    for colour, ground in itertools.permutations(COLOURS, 2):
        seen = look(draw(Scene("star", colour, ground), 64))
        assert (seen.colour, seen.ground, seen.shape) == (colour, ground, "star")


def test_a_picture_without_a_shape() -> None:
    """A flat ground shows no shape; noise shows none that fits."""
    flat = look(np.full((SIDE, SIDE, 3), np.float32(0.1)))
    assert (flat.shape, flat.ground) == ("", "black")
    assert look(random().random((SIDE, SIDE, 3), np.float32)).overlap < 0.7


def test_combinations_that_are_kept_from_training() -> None:
    """About a tenth: some of each shape and of each colour, so that none is unknown; never all of one."""
    scenes = [Scene(shape, colour, ground) for shape in SHAPES for colour, ground in itertools.permutations(COLOURS, 2)]
    new = [scene for scene in scenes if is_new(scene)]
    assert 0.08 < len(new) / len(scenes) < 0.14
    assert {scene.shape for scene in new} == set(SHAPES)
    for name in COLOURS:
        assert 0 < sum(scene.colour == name for scene in new) < 35


def test_words_say_the_scene() -> None:
    """The full wording names all of it; every wording names the shape, in words that the models know."""
    scene = Scene("square", "orange", "white", "left", "small")
    assert say(scene) == "a small orange square on the left, white background"
    assert say(replace(scene, place="centre")) == "a small orange square in the centre, white background"
    generator = random(1)
    texts = {say_somehow(scene, generator) for _ in range(300)}
    assert all("square" in text for text in texts)
    assert {"an orange square on white", "a small orange square at the left on a white background"} <= texts
    known = [text for text in texts if set(text.replace(",", "").split()) <= set(VOCABULARY)]
    assert len(known) > 50


def test_words_say_the_move() -> None:
    """Each wording names where the shape goes, in words that the model of clips knows."""
    generator = random(2)
    for move in MOVES:
        for _ in range(30):
            words = say_move(RED_CIRCLE, move, generator).split()
            assert words[-1] == move
            assert set(words) <= set(CLIP_VOCABULARY)


def walking(x: float, y: float, frames: int = 9) -> list[Pixels]:
    return [draw(RED_CIRCLE, moved=(x * at / (frames - 1), y * at / (frames - 1))) for at in range(frames)]


@pytest.mark.parametrize(
    ("way", "heading"),
    [((0.2, 0), "right"), ((-0.2, 0.05), "left"), ((0, -0.15), "up"), ((0.1, 0.2), "down"), ((0.02, 0), "")],
)
def test_a_walk_is_followed(way: tuple[float, float], heading: str) -> None:
    """The shape's way through the frames, as parts of the side; a shape that trembles goes nowhere."""
    walk = follow(walking(*way))
    assert (walk.shape, walk.colour, walk.ground, walk.heading) == ("circle", "red", "blue", heading)
    assert walk.way == pytest.approx(way, abs=0.01)
    assert sum(walk.steps) == pytest.approx(max(map(abs, way)) if heading else 0, abs=0.01)


def test_a_clip_that_changes_what_it_shows() -> None:
    """One frame of another shape or colour is enough for no name."""
    frames = walking(0.3, 0)
    frames[4] = draw(Scene("square", "green", "blue"))
    walk = follow(frames)
    assert (walk.shape, walk.colour, walk.ground) == ("", "", "blue")


SETTINGS = RunnerSettings(model="any", backend="self-test")


def test_a_self_test_that_finds_all_right_is_ready() -> None:
    """It is then a backend like the one within."""
    test = SelfTest(SETTINGS, Painter())
    assert test.load().model == "toy"
    assert test.memory_bytes() == 7
    assert [finding.wrong for finding in test.ask()] == [""] * len(QUESTIONS)


@pytest.mark.parametrize("name", FACTORS)
def test_a_self_test_that_finds_a_fault_is_not_ready(name: str) -> None:
    """The reason says what was asked for, what came, and where."""
    wrong = changed(QUESTIONS[-1], name)
    with pytest.raises(SetupError, match=f"{QUESTIONS[-1].prompt}.* on cpu .*{name} {getattr(wrong, name)} instead"):
        SelfTest(SETTINGS, Painter(wrong)).load()


def test_colours_that_are_off() -> None:
    """A colour far from the palette's is wrong, even where it is still nearest to the right one."""
    right = look(draw(RED_CIRCLE))
    assert difference(RED_CIRCLE, right) == ""
    assert "off by 60" in difference(RED_CIRCLE, replace(right, colour_error=60.0))
    assert "shape none instead of circle" in difference(RED_CIRCLE, replace(right, shape=""))


def test_the_command_tells_of_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each picture has its line; the exit code is 1 where one is wrong, 0 where none is."""
    monkeypatch.setattr("runner.commands.self_test.telemetry.configure", lambda *_: None)  # it is the process's
    for instead, code in ((None, 0), (changed(QUESTIONS[-1], "colour"), 1)):
        painter = Painter(instead)
        monkeypatch.setattr("runner.self_test.DiffusersBackend", lambda settings, painter=painter: painter)
        result = CliRunner().invoke(cli, ["self-test"])
        assert result.exit_code == code, result.output
        assert "a small red circle on the left, blue background: right" in result.output
        assert ("colour orange instead of" in result.output) == bool(instead)


@pytest.mark.parametrize("name", trained.MODELS)
def test_the_trained_models_come_with_the_package(name: str, tmp_path: Path) -> None:
    """They are whole, state their licence and how they came to be, and `make-tiny` copies them as they are."""
    files = survey(trained.folder_of(name))
    card = trained.card(name)
    assert files.digest() == card["digest"]
    assert (files.licence.id, files.licence.commercial) == ("Apache-2.0", "yes")
    report = (trained.folder_of(name) / trained.REPORT).read_text("utf-8")
    assert all(word in report for word in ("seed", "scripts/toyworld", "steps", "Apache-2.0", "% |"))
    made = tiny.make(tmp_path, name)
    assert survey(made).digest() == card["digest"]
    assert {path.stat().st_mode & 0o777 for path in made.rglob("*.safetensors")} == {0o644}
    (made / "reelnet.json").write_text("{}")
    assert survey(tiny.make(tmp_path, name)).digest() == trained.card(name)["digest"]
    assert (made / "reelnet.json").read_text() != "{}", "one of another day is made anew"


def test_the_weights_are_small() -> None:
    """All of the picture model is less than 4 MB."""
    size = sum(path.stat().st_size for path in trained.folder_of(trained.PICTURE).rglob("*") if path.is_file())
    assert size < 4_000_000
