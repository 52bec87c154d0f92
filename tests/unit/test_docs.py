"""The documentation says what the code does: examples load, links lead somewhere, generated pages are up to date."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from types import ModuleType

import pytest

from broadcaster.settings import BroadcasterSettings
from orchestrator.settings import OrchestratorSettings
from reelnet.pipelines import FAMILIES
from reelnet.settings import ComponentSettings, load
from runner.settings import RunnerSettings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])
SETTINGS: dict[str, type[ComponentSettings]] = {
    "broadcaster": BroadcasterSettings,
    "orchestrator": OrchestratorSettings,
    "runner": RunnerSettings,
}
BLOCK = re.compile(r"^```yaml *(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A YAML block; the word behind `yaml` names the component that reads it."""
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
NAMED_TARGET = re.compile(r"\bmake ((?!sure)[a-z][a-z-]*)\b")
SIGNPOSTS = ("CONTRIBUTING.md", "docs/architecture.md")
"""Pages that tell where things are."""
PARTS = (
    "broadcaster",
    "orchestrator",
    "runner",
    "proto",
    "benchmark",
    "tests",
    "scripts",
    "docs",
    "deploy",
    "examples",
)
NAMED_PATH = re.compile(rf"`((?:[\w-]+/)*[\w-]+\.py)`|`((?:{'|'.join(PARTS)})/[\w./-]*)`")
"""A Python file, or whatever lies in one of those folders."""
HOSTS = re.compile(r"pypi|npmjs|debian\.org|/(?:work|root)/")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this user's own reaches an example."""
    for name in [name for name in os.environ if name.startswith("REELNET_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("component", ["broadcaster", "orchestrator"])
def test_the_example_of_deploy_loads(component: str) -> None:
    """deploy/<component>.yaml is a configuration that the component takes."""
    settings = load(SETTINGS[component], ROOT / "deploy" / f"{component}.yaml")
    assert settings.model_fields_set >= {"metrics", "limits"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """The file of a link exists, and so does the heading behind its `#`."""
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_the_configuration_reference_is_up_to_date() -> None:
    """docs/configuration.md is what scripts/configuration.py writes."""
    script = configuration_script()
    assert script.FILE.read_text("utf-8") == script.document(), "run scripts/configuration.py"


def test_the_runner_page_has_every_parameter() -> None:
    """The generated part of docs/runner.md is what scripts/runner_pages.py writes, and names each parameter."""
    script = script_module("runner_pages")
    page = script.FILE.read_text("utf-8")
    assert page == script.document(page), "run scripts/runner_pages.py"
    for pipeline in FAMILIES.values():
        chapter = page.split(f"### {script.title(pipeline)}\n")[1].split("\n### ")[0]
        assert all(f"| `{name}` |" in chapter for name in pipeline.params.model_fields)


def test_the_configuration_reference_has_every_key() -> None:
    """No field of a settings class is missing, nested ones included."""
    text = configuration_script().document()
    for key in ("http.port", "catalogue.<key>.digests", "models[].pipelines.<key>.price", "limits.stall_s", "tcp.host"):
        assert f"| `{key}` |" in text
    for settings in SETTINGS.values():
        for name in settings.model_fields:
            assert f"| `{name}` |" in text, name


@pytest.mark.parametrize(
    ("component", "block"),
    [
        pytest.param(component, block, id=f"{page.name}-{component}")
        for page in PAGES
        for component, block in BLOCK.findall(page.read_text("utf-8"))
    ],
)
def test_every_yaml_block_loads(component: str, block: str, tmp_path: Path) -> None:
    """A YAML block of a page names its component, which takes it."""
    file = tmp_path / "example.yaml"
    file.write_text(block, "utf-8")
    load(SETTINGS[component], file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(page: Path) -> None:
    """`make x` in a page is a target of the Makefile."""
    known = set(TARGET.findall((ROOT / "Makefile").read_text("utf-8")))
    code = "\n".join(re.findall(r"`[^`\n]+`|^```.*?^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    assert set(NAMED_TARGET.findall(code)) <= known


@pytest.mark.parametrize("page", SIGNPOSTS)
def test_signposts_are_true(page: str) -> None:
    """Each file and folder that these pages name is there: by its whole path, or by the end of it."""
    there = [str(path.relative_to(ROOT)) for part in PARTS for path in (ROOT / part).rglob("*")]
    named = [next(filter(None, found)) for found in NAMED_PATH.findall((ROOT / page).read_text("utf-8"))]
    missing = [name for name in named if not any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in there)]
    assert named
    assert missing == []


def test_the_readme_begins_with_the_two_commands() -> None:
    """A bare clone needs no more than these."""
    first = FENCED.findall((ROOT / "README.md").read_text("utf-8"))[0]
    assert first.splitlines()[1:-1] == ["make demo", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_package_index_or_a_path_of_one_machine(page: Path) -> None:
    """What is written holds on every machine."""
    assert not HOSTS.search(page.read_text("utf-8"))


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them: lower case, words joined by hyphens."""
    text = FENCED.sub("", page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


def configuration_script() -> ModuleType:
    """scripts/configuration.py as a module."""
    return script_module("configuration")


def script_module(name: str) -> ModuleType:
    """A script as a module; scripts are no package."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_claim_of_the_trust_page_names_a_test_that_is_there() -> None:
    """Each `file::test` of docs/trust.md is the name of a test, and each edge and most claims have one."""
    named = re.findall(r"`(test_\w+)::(test_\w+)`", (ROOT / "docs/trust.md").read_text("utf-8"))
    assert len(named) > 50
    for file, test in named:
        found = [path.read_text("utf-8") for path in (ROOT / "tests").rglob(f"{file}.py")]
        assert any(f"def {test}(" in text for text in found), f"{file}::{test}: no such test"
