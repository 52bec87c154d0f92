"""A skipped test is a failure in CI, wherever it is skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
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
    ("ci", "said"), [("true", "1 failed, 1 passed, 1 xfailed, 3 errors"), ("", "1 passed, 4 skipped, 1 xfailed")]
)
def test_a_skip_is_a_failure_in_ci(tmp_path: Path, ci: str, said: str) -> None:
    """In a fixture, a body, a mark or a whole file; elsewhere it stays a skip."""
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text("utf-8"), "utf-8")
    (tmp_path / "test_one.py").write_text(IN_A_TEST, "utf-8")
    (tmp_path / "test_two.py").write_text(IN_A_FILE, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    environ = {**os.environ, "CI": ci}
    run = subprocess.run([*command, str(tmp_path)], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert said == run.stdout.splitlines()[-1].partition(" in ")[0], run.stdout + run.stderr
    assert run.stdout.count("in CI nothing may be skipped: ") >= 4 * bool(ci)
