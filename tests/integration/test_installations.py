"""The documented install lines, executed: what each leaves out is said by every command, and nothing is a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "operate.md"]
LINE = re.compile(r"pip install (?:--upgrade )?'\.\[([\w,]+)\]'")
NO_INDEX = re.compile(r"error sending request|Failed to fetch|Network connectivity is disabled|client error")
UV = Path(sys.executable).with_name("uv")
INSTALL_S = 150
COMMAND_S = 120
HELP = "Usage:"
SMALL_POOL = "benchmark --pipeline text-to-image --local-pool --backend synthetic"


def documented() -> list[str]:
    """The extras of each line that installs."""
    return sorted({extras for page in PAGES for extras in LINE.findall(page.read_text("utf-8"))})


def needs(extra: str) -> str:
    """What a command says that lacks an extra."""
    return f"pip install 'reelnet[{extra}]'"


CASES = {
    "": [
        ("broadcaster serve", 3, needs("broadcaster")),
        ("orchestrator --help", 3, needs("orchestrator")),
        ("runner --help", 3, needs("runner")),
        ("benchmark --help", 3, needs("benchmark")),
    ],
    "orchestrator": [
        ("orchestrator init --synthetic", 0, "orchestrator doctor"),
        ("orchestrator serve --name b", 3, needs("runner")),
        ("runner serve --model synthetic/bars", 3, needs("runner")),
    ],
    "broadcaster": [("broadcaster id", 0, ""), ("orchestrator doctor", 3, needs("orchestrator"))],
    "benchmark": [(SMALL_POOL, 3, needs("broadcaster,orchestrator,runner"))],
    "orchestrator,runner": [("runner --help", 0, HELP), ("runner models pull acme/model", 3, "reelnet[diffusers]")],
}


def uv(*words: str) -> str:
    """What `uv pip WORDS` says; skips the test where there is no uv, and no package index or cache."""
    if not UV.exists():
        pytest.skip("no uv beside this Python: scripts/bootstrap brings it")
    run = subprocess.run([UV, *words], cwd=ROOT, capture_output=True, text=True, timeout=INSTALL_S)
    if run.returncode and NO_INDEX.search(run.stderr):
        pytest.skip("no package index answers")
    assert run.returncode == 0, run.stderr
    return run.stderr


def said(folder: Path, line: str) -> tuple[int, str]:
    """The exit code of a command of this installation, and all its words."""
    command, *words = line.split()
    environ = {"PATH": os.defpath, "HOME": str(folder), "REELNET_HOME": str(folder / "home"), "COLUMNS": "200"}
    run = subprocess.run(
        [folder / "bin" / command, *words],
        cwd=folder, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S,
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize(
    "growth",
    [("", "orchestrator", "orchestrator,runner"), ("broadcaster",), ("benchmark",)],
    ids=lambda growth: growth[-1],
)
def test_what_an_installation_lacks_is_said(tmp_path: Path, growth: tuple[str, ...]) -> None:
    """Exit code 3 and the extra to install; what is there works, also where an extra came later."""
    uv("venv", "--quiet", "--python", sys.executable, str(tmp_path))
    for extras in growth:
        what = f".[{extras}]" if extras else "."
        uv("pip", "install", "--quiet", "--system-certs", "--python", str(tmp_path / "bin" / "python"), what)
        check(tmp_path, extras)


def check(env: Path, extras: str) -> None:
    """Every command of a case."""
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda case: said(env, case[0]), CASES[extras])
    for (line, code, words), (ended, text) in zip(CASES[extras], answers, strict=True):
        assert (ended, words in text, "Traceback" in text) == (code, True, False), f"{line}: {text}"


@pytest.mark.parametrize("extras", documented())
def test_a_documented_line_installs(extras: str) -> None:
    """This environment is what the line asks for, so torch is not fetched again: each extra is one, none is missing."""
    what = ("--dry-run", "--offline", "--python", sys.executable, f".[{extras}]")
    planned = uv("pip", "install", *what)
    assert "does not have an extra" not in planned
    assert {line.split()[1] for line in planned.splitlines() if line.startswith(" + ")} == {"reelnet"}, planned
