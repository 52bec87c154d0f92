"""Somebody with a shell on a bare home: commands of the product to their end, and components in the background."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60


@dataclass
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Shell:
    """A folder to work in, and its environment. `children` are what was started in the background."""

    folder: Path
    environ: dict[str, str]
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    async def run(self, program: str, *words: str, code: int = 0) -> Answer:
        """One command to its end, which has to be `code`."""
        child = await asyncio.create_subprocess_exec(
            *_command(program, words), cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_S):
            out, err = await child.communicate()
        answer = Answer(child.returncode or 0, out.decode(), err.decode())
        assert answer.code == code, (program, words, answer)
        return answer

    async def document(self, program: str, *words: str) -> Any:
        """The JSON that a command prints."""
        return json.loads((await self.run(program, *words, "--json")).out)

    async def background(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        """A component that serves: returns once its home has its `ready.json`."""
        ready = {path: path.read_text() for path in self.ready_files()}
        with self.log(program).open("ab") as log:
            child = subprocess.Popen(
                _command(program, words), cwd=self.folder, env=self.environ,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.children.append(child)
        async with asyncio.timeout(PATIENCE_S):
            while {path: path.read_text() for path in self.ready_files()}.items() <= ready.items():
                assert child.poll() is None, self.log(program).read_text("utf-8")
                await asyncio.sleep(0.02)
        return child

    def ready_files(self) -> list[Path]:
        """Those of all components of this home."""
        return sorted((self.folder / "home").glob("*/*/ready.json"))

    def facts(self, component: str, name: str = "default") -> dict[str, Any]:
        """Where a component answers."""
        facts: dict[str, Any] = json.loads((self.folder / "home" / component / name / "ready.json").read_text("utf-8"))
        return facts

    def log(self, program: str) -> Path:
        """What the components of a program said."""
        return self.folder / f"{program.rpartition('.')[2]}.log"

    async def end(self, child: subprocess.Popen[bytes], how: int = signal.SIGTERM) -> int:
        """A signal, and the exit code."""
        child.send_signal(how)
        async with asyncio.timeout(PATIENCE_S):
            while child.poll() is None:
                await asyncio.sleep(0.01)
        return child.returncode


@contextlib.contextmanager
def bare_home(folder: Path) -> Iterator[Shell]:
    """A shell in an empty folder, and nothing left of what was started from it."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith(("REELNET_", "COLUMNS"))}
    environ |= {"REELNET_HOME": str(folder / "home"), "REELNET_MODELS": str(folder / "models")}
    environ |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "proto")])}
    environ |= {"DOCKER_HOST": f"unix://{folder}/no-docker.sock"}
    shell = Shell(folder, environ)
    try:
        yield shell
    finally:
        for child in shell.children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.wait()


def _command(program: str, words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", program if "." in program else f"{program}.cli", *words]
