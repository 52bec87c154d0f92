"""NOTICE names what an installation carries, with the licence that each part states."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTICE = (ROOT / "NOTICE").read_text("utf-8")
SECTIONS = dict(zip(range(7), re.split(r"^\d\. .*\n-+\n", NOTICE, flags=re.MULTILINE), strict=True))
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def direct() -> list[str]:
    """The packages that pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [*project["dependencies"], *(row for rows in project["optional-dependencies"].values() for row in rows)]
    return sorted({_NAME.match(row)[0].lower() for row in asked})  # type: ignore[index]


def stated(package: Distribution) -> str:
    """A package's licence by its own metadata: the expression, the field of old, else its classifiers."""
    said = package.metadata
    names = [row.split(" :: ")[-1] for row in said.get_all("Classifier") or [] if row.startswith("License ::")]
    return said.get("License-Expression") or said.get("License") or ", ".join(names)


def libraries(package: str) -> set[str]:
    """The shared libraries that a wheel brings, without versions."""
    files = distribution(package).files or []
    return {file.name.split(".so")[0].rsplit("-", 1)[0] for file in files if file.parent.name == f"{package}.libs"}


def test_each_direct_dependency_is_named_with_its_licence() -> None:
    """No package more, none less, and the very words of its metadata."""
    rows = dict(line.split(maxsplit=1) for line in SECTIONS[2].strip().splitlines())
    assert rows == {name: stated(distribution(name)) for name in direct()}


@pytest.mark.parametrize(("package", "section"), [("av", 3), ("pillow", 4), ("pi_heif", 5)])
def test_each_library_of_a_wheel_is_named(package: str, section: int) -> None:
    """What the wheel holds is what NOTICE says that it holds."""
    named = set(re.findall(r"\blib(?:[A-Z][A-Za-z0-9]*|[a-z0-9]+)(?:-[a-z]+)*\b", columns(SECTIONS[section])))
    assert named == libraries(package) != set()


def columns(section: str) -> str:
    """The last column of a section's table: the libraries' names."""
    return "\n".join(line[26:] if line.startswith(" ") else line[69:] for line in section.splitlines())


def test_what_is_said_of_ffmpeg_is_so() -> None:
    """The build calls itself LGPL and is linked with two libraries under the GPL."""
    from av._core import library_meta

    said = library_meta["libavcodec"]
    assert said["license"] == "LGPL version 3 or later"
    for switch in ("--enable-version3", "--enable-libx264", "--enable-libx265"):
        assert switch in said["configuration"]
    assert "--enable-gpl" not in said["configuration"]
