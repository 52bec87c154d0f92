"""What may import what."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
_HEAVY = {"torch", "diffusers", "transformers"}
_SERVE_SYNTHETIC = """
import asyncio, sys
import runner.cli
from tests.fakes.runner import serving, settings
from runner.app import build
from pathlib import Path

async def main():
    async with serving(build(settings()), Path(sys.argv[1])) as client:
        await client.until("READY")
        answer = await client.run(params={"prompt": "x", "seed": 1, "width": 64, "height": 64})
        assert answer.last["event"] == "done", answer.last

asyncio.run(main())
print(sorted({name.split(".")[0] for name in sys.modules} & {"torch", "diffusers", "transformers"}))
"""


def test_serving_synthetic_jobs_needs_no_model_library(tmp_path: Path) -> None:
    """Neither the command nor a whole synthetic job imports torch or diffusers."""
    found = subprocess.run(
        [sys.executable, "-c", _SERVE_SYNTHETIC, str(tmp_path)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.stdout.splitlines()[-1:] == ["[]"], found.stderr


def test_the_command_needs_no_http_client() -> None:
    """The synthetic image has none: only `models pull` asks for it, and says what to install."""
    script = "import sys; sys.modules['httpx'] = None; from runner.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", script, "models", "pull", "acme/model"],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == 3, found.stderr
    assert "httpx is not installed" in found.stderr


def test_model_libraries_stay_in_their_folders() -> None:
    """Only runner/pipelines and runner/models know torch and diffusers."""
    for path in (ROOT / "runner").glob("*.py"):
        assert not _imported(path) & _HEAVY, path.name


def test_only_the_synthetic_backend_knows_faults() -> None:
    """No word in a prompt makes a real model fail."""
    knowing = {path.name for path in (ROOT / "runner").rglob("*.py") if "runner.faults" in _modules(path)}
    assert knowing == {"synthetic.py"}


def _imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _modules(path)}


def _modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names
