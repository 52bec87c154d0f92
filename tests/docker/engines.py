"""Docker engines that belong to the tests alone, by `scripts/engine`, and what they are told over Docker's command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import programs

ROOT = Path(__file__).parents[2]
ENGINE, IMAGE = ROOT / "scripts" / "engine", ROOT / "scripts" / "image"
ENGINE_S = 200
"""Longest start or stop of an engine."""
DOCKER_S = 120
"""Longest call of Docker's command."""
BUILD_S = 1500
"""Longest build of an image."""
HARDENED = ("--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp")
"""What every runner's container runs under."""


@dataclass(frozen=True)
class TestEngine:
    """An engine in a folder of its own, which outlives its dockerd."""

    __test__ = False
    folder: Path

    @property
    def socket(self) -> Path:
        """Where its API answers."""
        return self.folder / "run" / "docker.sock"

    @property
    def pid(self) -> int:
        """Its dockerd's."""
        return int((self.folder / "run" / "dockerd.pid").read_text())

    def up(self, *, live_restore: bool = False) -> None:
        """Starts it, and waits until it answers."""
        self._do("up", *(["--live-restore"] if live_restore else []))

    def stop(self) -> None:
        """Ends its dockerd by SIGTERM; containers live on if it was started with `live_restore`."""
        self._do("stop")

    def restart(self, *, live_restore: bool = False) -> None:
        """`stop` and `up`. What becomes of containers is up to how it ran before, and to `live_restore` now."""
        self._do("restart", *(["--live-restore"] if live_restore else []))

    def down(self, *, purge: bool = False) -> None:
        """Ends it with all its containers; `purge` removes its images too."""
        self._do("down", *(["--purge"] if purge else []))

    def build(self, target: str) -> str:
        """The id of the image that `scripts/image TARGET` makes, or has made before.

        Skips the test where neither a registry nor debootstrap has a base for it.
        """
        run = _run([str(IMAGE), target, "--socket", str(self.socket)], BUILD_S)
        if run.returncode == 3 and "no registry answers" in run.stderr:
            pytest.skip(programs.missing("debootstrap") or run.stderr.strip())
        return _good(run).split()[1]

    def docker(self, *arguments: str) -> str:
        """What `docker ARGUMENTS` prints. Raises AssertionError when it fails."""
        return _output(self.command(*arguments), DOCKER_S).strip()

    def command(self, *arguments: str) -> list[str]:
        """`docker ARGUMENTS`, told to speak to this engine."""
        return ["docker", "--host", f"unix://{self.socket}", *arguments]

    def _do(self, command: str, *flags: str) -> None:
        _output([str(ENGINE), command, *flags, str(self.folder)], ENGINE_S)


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)


def _good(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, f"{' '.join(run.args)}: exit code {run.returncode}\n{run.stdout}{run.stderr}"
    return run.stdout


def _output(command: list[str], timeout_s: float) -> str:
    return _good(_run(command, timeout_s))


def need_engine() -> None:
    """Skips the test where no engine can run."""
    if os.geteuid() != 0:
        pytest.skip("a Docker engine of the tests' own needs root")
    programs.needs("dockerd", "containerd", "runc", "docker")


@contextlib.contextmanager
def running_engine(spare: Path) -> Iterator[TestEngine]:
    """The engine whose images are kept from run to run, or one in the folder `spare` while other tests have that."""
    with _kept_or(spare) as folder:
        engine = TestEngine(folder)
        try:
            engine.down()  # what a run that was killed may have left
            engine.up()
            yield engine
        finally:
            engine.down(purge=folder == spare)


@contextlib.contextmanager
def _kept_or(spare: Path) -> Iterator[Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reelnet"
    kept = Path(os.environ.get("REELNET_TEST_ENGINE") or cache / "engine")
    kept.mkdir(parents=True, exist_ok=True)
    with kept.with_name(f"{kept.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield spare
        else:
            yield kept
