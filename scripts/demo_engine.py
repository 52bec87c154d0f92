"""The Docker engine for the demo: the machine's if it answers, else one of the demo's own, with the runner's image."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reelnet.errors import StartError

ROOT = Path(__file__).resolve().parent.parent
USUAL = Path("/var/run/docker.sock")
UNIX = "unix://"
ANSWER_S = 10
UP_S = 120
BUILD_S = 3600
OURS = "label=reelnet.node"


@dataclass(frozen=True, slots=True)
class Containers:
    """An engine that runs runners: its socket, and the id of the image with every pipeline."""

    socket: Path
    image: str

    def left(self) -> list[str]:
        """Names of runner containers that are there, running or not."""
        return _docker(self.socket, "ps", "--all", "--filter", OURS, "--format", "{{.Names}}", limit_s=ANSWER_S).split()


@contextmanager
def containers(tell: Callable[[str], None]) -> Iterator[Containers]:
    """An engine with the full image, for the length of the block. Raises StartError that says what is missing."""
    host = os.environ.get("DOCKER_HOST", "")
    socket = Path(host.removeprefix(UNIX)) if host.startswith(UNIX) else USUAL
    if _answers(socket):
        yield _with_image(socket, tell)
        return
    tell("no Docker engine answers: starting one of the demo's own")
    own = Path(_run("scripts/engine", "up", limit_s=UP_S).strip())
    try:
        yield _with_image(own, tell)
    finally:
        _run("scripts/engine", "down", limit_s=UP_S)


def _with_image(socket: Path, tell: Callable[[str], None]) -> Containers:
    tell("building the runner's image, once (minutes)")
    built = _run("scripts/image", "full", "--socket", str(socket), limit_s=BUILD_S).split()
    image = next(word for word in built if word.startswith("sha256:"))
    tell(f"the image is {image[:19]}, {built[-2]} {built[-1]}")
    return Containers(socket, image)


def _answers(socket: Path) -> bool:
    try:
        return bool(_docker(socket, "version", "--format", "{{.Server.Version}}", limit_s=ANSWER_S).strip())
    except StartError:
        return False


def _docker(socket: Path, *words: str, limit_s: float) -> str:
    return _run("docker", "--host", UNIX + str(socket), *words, limit_s=limit_s)


def _run(*words: str, limit_s: float) -> str:
    """A command's standard output. Raises StartError with what it said when it fails."""
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=True)
    except FileNotFoundError:
        raise StartError(f"{words[0]} is missing; install Docker (Debian: apt-get install docker.io)") from None
    except subprocess.TimeoutExpired:
        raise StartError(f"{' '.join(words[:2])} took longer than {limit_s:g} s") from None
    except subprocess.CalledProcessError as error:
        raise StartError(f"{' '.join(words[:2])} failed: {error.stderr.strip()[-2000:]}") from None
    return done.stdout
