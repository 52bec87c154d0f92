"""README's statements of the tree, the tests, the pipelines and the ports are true."""

from __future__ import annotations

import importlib
import re
import tomllib

from typer.testing import CliRunner

from broadcaster.settings import BroadcasterSettings
from orchestrator.settings import OrchestratorSettings
from reelnet.pipelines import PIPELINES
from reelnet.settings import Listener
from tests.fakes.page import FENCED, Page
from tests.unit.test_docs import ROOT

PAGE = Page(ROOT / "README.md")
TEXT = " ".join(PAGE.file.read_text("utf-8").split())
WORDS = {"gpu": "GPU", "docker": "Docker"}
"""What a tier's subject is called in a sentence."""
COMMAND = re.compile(r"`(?:\.venv/bin/)?(orchestrator|broadcaster|runner|benchmark|scripts/\w+) ([a-z][^`]*)`")
TUNNEL_PORT = 18935
"""The near end of a tunnel, which its user chooses."""


def test_make_test_runs_the_tiers_that_the_set_up_names() -> None:
    """Each of scripts/test, in its order, and no other one."""
    tiers = re.findall(r"^tier (\w+)", (ROOT / "scripts" / "test").read_text("utf-8"), re.MULTILINE)
    told = re.search(r"runs the tests tier by tier: (.*?)\. ", TEXT)
    assert told
    parts = re.split(r", (?:and )?", told[1])
    assert len(parts) == len(tiers)
    assert all(WORDS.get(tier, tier) in part for tier, part in zip(tiers, parts, strict=True)), (tiers, parts)


def test_contributing_has_the_same_tiers() -> None:
    """A row for each folder of tests that `make test` runs."""
    tiers = set(re.findall(r"^tier (\w+)", (ROOT / "scripts" / "test").read_text("utf-8"), re.MULTILINE))
    table = Page(ROOT / "CONTRIBUTING.md").sections["Tests"].rows("tier")
    assert {name for name, *_ in table} == tiers
    assert all((ROOT / re.findall(r"`(tests/\w+)", where)[0]).is_dir() for _, where, _ in table)


def test_the_table_of_folders_is_the_tree() -> None:
    """Each folder and file is there, and each folder of the checkout is in it."""
    told = {
        name.strip("/") for first, _ in PAGE.sections["The parts"].rows() for name in re.findall(r"`([^`]+)`", first)
    }
    assert all((ROOT / name).exists() for name in told)
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text("utf-8").splitlines()}
    there = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    there -= {name for name in there if name in ignored or name.endswith(".egg-info")}
    assert there == {name.partition("/")[0] for name in told if (ROOT / name).is_dir()}


def test_the_pipelines_are_named() -> None:
    """As many as it says, each by its name."""
    said = re.search(r"six pipelines: (.*?) \|", TEXT)
    assert said
    assert set(re.findall(r"\b(?:text-to-\w+|image-to-\w+|upscale(?:-video)?|frame-interpolation)\b", said[1])) == set(
        PIPELINES
    )
    assert len(PIPELINES) == 6


def test_the_ports_are_the_defaults() -> None:
    """Each address on loopback is one of a listener's, or the near end of the tunnel."""
    listeners = [value for kind in (BroadcasterSettings, OrchestratorSettings) for _, value in kind()]
    ports = {listener.port for listener in listeners if isinstance(listener, Listener)}
    told = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", TEXT)}
    assert told - {TUNNEL_PORT} <= ports
    assert len(told) > 3


def test_the_python_that_it_asks_for_is_the_projects() -> None:
    """And so is the licence."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    said = re.search(r"Python (\d+\.\d+) or newer", TEXT)
    assert said
    assert project["requires-python"] == f">={said[1]}"
    assert f"Licence: [{project['license']}](LICENSE)" in TEXT


def test_the_commands_in_its_sentences_exist() -> None:
    """Of the four programs each command that is named, and of the scripts each profile."""
    sentences = FENCED.sub("", PAGE.file.read_text("utf-8"))
    found = re.findall(
        r"`(?:\.venv/bin/)?(orchestrator|broadcaster|runner|benchmark|scripts/\w+) ([a-z][^`]*)`", sentences
    )
    assert len(found) >= 4
    for program, words in found:
        named = [word for word in words.split() if word.islower()]
        if program.startswith("scripts/"):
            assert named[0] in re.findall(r"\w+", (ROOT / program).read_text("utf-8").split("\nset ")[0]), words
            continue
        cli = importlib.import_module(f"{program}.cli").cli
        assert CliRunner().invoke(cli, [*named, "--help"]).exit_code == 0, words
