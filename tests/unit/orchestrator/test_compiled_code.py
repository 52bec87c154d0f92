"""Folders of compiled code: whose they are, and when they go."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.compiled_code import PAIR, UNUSED_S, CompiledCode, compiles
from orchestrator.engine import EngineError, RunnerSpec
from orchestrator.process_engine import ProcessEngine, environment

SPEC = RunnerSpec("s", "acme/sd", "/srv/sd", "diffusers", "cuda:0", Path("/run/s"), flags={"compile": "true"})


class Clock:
    """A time that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def code(tmp_path: Path, clock: Clock) -> CompiledCode:
    """The folders of a node."""
    return CompiledCode(tmp_path / "compiled", clock)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder with one file."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/unet.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"flags": {"compile": " Yes "}}, True),
        ({"flags": {"compile": "false"}}, False),
        ({"flags": {}}, False),
        ({"backend": "synthetic"}, False),
    ],
)
def test_only_a_runner_that_compiles_has_a_folder(changes: dict[str, object], wanted: bool) -> None:
    """As its flags say, in the words that settings take."""
    assert compiles(replace(SPEC, **changes)) is wanted  # type: ignore[arg-type]


def test_a_pair_keeps_its_folder(code: CompiledCode, model: Path, tmp_path: Path) -> None:
    """The next start of the same image and model finds what the last one wrote, also after the node's own restart."""
    (code.folder("sha256:1", model) / "kernel").touch()
    again = CompiledCode(tmp_path / "compiled").folder("sha256:1", model)
    assert [path.name for path in again.iterdir()] == ["kernel"]


def test_no_other_pair_sees_it(code: CompiledCode, model: Path, tmp_path: Path) -> None:
    """Another image, another model with equal files, and other weights in the same place each begin with nothing."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "unet.safetensors").write_bytes(b"weights")
    os.utime(other / "unet.safetensors", ns=(1, 1))
    os.utime(model / "unet.safetensors", ns=(1, 1))
    folders = [code.folder("sha256:1", model), code.folder("sha256:2", model), code.folder("sha256:1", other)]
    os.utime(model / "unet.safetensors", ns=(2, 2))
    folders.append(code.folder("sha256:1", model))
    assert len(set(folders)) == 4
    assert not any(a != b and a.is_relative_to(b) for a in folders for b in folders)


def test_it_is_its_users_alone(code: CompiledCode, model: Path) -> None:
    """Nobody else can put code there."""
    folder = code.folder("sha256:1", model)
    for place in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_what_nobody_used_for_long_goes(code: CompiledCode, model: Path, clock: Clock, tmp_path: Path) -> None:
    """At the next start of a pair, by the time of the last one; what this node has used stays."""
    old = CompiledCode(tmp_path / "compiled", clock)
    gone, kept = (old.folder(image, model) for image in ("sha256:gone", "sha256:kept"))
    clock.now += UNUSED_S + 1
    code.keep(kept)
    code.folder("sha256:new", model)
    assert not gone.parent.exists()
    assert kept.is_dir()
    clock.now += 2 * UNUSED_S
    code.folder("sha256:new", model)
    assert kept.is_dir(), "its runner may still run"


def test_a_strangers_folder_is_not_noted(code: CompiledCode, model: Path, tmp_path: Path) -> None:
    """What lies elsewhere is left as it is."""
    place = tmp_path / "elsewhere" / "code"
    place.mkdir(parents=True)
    (place.parent / PAIR).touch()
    before = (place.parent / PAIR).stat().st_mtime_ns
    code.keep(place)
    assert (place.parent / PAIR).stat().st_mtime_ns == before


def test_a_process_is_told_its_folder(tmp_path: Path) -> None:
    """Over a flag that names another; one that compiles nothing is told none."""
    flags = {"compile": "1", "compile_cache": "/elsewhere"}
    assert environment(replace(SPEC, flags=flags), tmp_path)["REELNET_RUNNER_COMPILE_CACHE"] == str(tmp_path)
    assert "REELNET_RUNNER_COMPILE_CACHE" not in environment(replace(SPEC, flags={}))


async def test_an_engine_makes_the_folder_first(tmp_path: Path, model: Path) -> None:
    """A disk that does not take it is the operator's affair: a typed error that names it, and no runner."""
    (tmp_path / "compiled").write_text("no folder")
    engine = ProcessEngine(compiled=CompiledCode(tmp_path / "compiled"))
    with pytest.raises(EngineError, match="folder for compiled code of s cannot be made"):
        await engine.start(replace(SPEC, model=str(model), folder=tmp_path))
