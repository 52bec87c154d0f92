"""`scripts/engine`: engines that are started, restarted, killed and removed, and that leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.engines import ENGINE, TestEngine, need_engine

SLEEP = ("--network=none", "--entrypoint=sleep", "--stop-signal=SIGKILL")
NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path of one engine's own."""
    need_engine()
    made = Path(tempfile.mkdtemp(prefix="engine-"))
    try:
        yield made
    finally:
        TestEngine(made).down(purge=True)
        shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def restartable(docker_engine: TestEngine) -> Iterator[TestEngine]:
    """The session's engine, started again afterwards without live-restore and without containers."""
    try:
        yield docker_engine
    finally:
        docker_engine.down()
        docker_engine.up()


def test_up_and_down_may_be_said_twice(folder: Path) -> None:
    """What is up stays as it is, what is down stays down, and purged means gone."""
    engine = TestEngine(folder)
    engine.up()
    first = engine.pid
    engine.up()
    assert engine.pid == first
    assert f"export DOCKER_HOST=unix://{engine.socket}\n" == said("env", str(folder)).stdout
    engine.down()
    engine.down()
    assert not engine.socket.exists()
    assert (folder / "data").exists()
    engine.down(purge=True)
    engine.down(purge=True)
    assert not folder.exists()
    assert traces(folder) == []


def test_engines_do_not_meet(folder: Path, docker_engine: TestEngine) -> None:
    """Each has images of its own, and an identity; neither has a bridge."""
    engine = TestEngine(folder)
    engine.up()
    assert engine.docker("image", "ls", "--quiet") == ""
    assert engine.docker("network", "ls", "--format", "{{.Name}}").splitlines() == ["host", "none"]
    assert engine.docker("info", "--format", "{{.ID}}") != docker_engine.docker("info", "--format", "{{.ID}}")


def test_a_restart_takes_the_containers_along(restartable: TestEngine, synthetic_image: str) -> None:
    """Without live-restore."""
    container = restartable.docker("run", "--detach", *SLEEP, synthetic_image, "1000")
    restartable.restart()
    assert restartable.docker("inspect", "--format", "{{.State.Status}}", container) == "exited"


def test_a_restart_with_live_restore_spares_them(restartable: TestEngine, synthetic_image: str) -> None:
    """The process goes on while no dockerd runs, and the next one knows it."""
    restartable.restart(live_restore=True)
    container = restartable.docker("run", "--detach", *SLEEP, synthetic_image, "1000")
    process = restartable.docker("inspect", "--format", "{{.State.Pid}}", container)
    restartable.stop()
    os.kill(int(process), 0)
    restartable.up(live_restore=True)
    assert (
        restartable.docker("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", container) == f"running {process}"
    )


def test_a_killed_engine_leaves_nothing(restartable: TestEngine, synthetic_image: str) -> None:
    """`down` ends containers that nobody is there to end, and unmounts what they had."""
    container = restartable.docker("run", "--detach", *SLEEP, synthetic_image, "1000")
    process = int(restartable.docker("inspect", "--format", "{{.State.Pid}}", container))
    for name in ("dockerd", "containerd"):
        os.kill(int((restartable.folder / "run" / f"{name}.pid").read_text()), signal.SIGKILL)
    os.kill(process, 0)
    restartable.down()
    assert not alive(process)
    assert traces(restartable.folder) == []
    restartable.up()
    assert restartable.docker("ps", "--all", "--quiet", "--filter", "status=running") == ""


def test_a_gpu_is_asked_for_in_the_true_way(docker_engine: TestEngine, synthetic_image: str) -> None:
    """A stand-in for NVIDIA's hook lets a device request through, which shows in the container's environment."""
    asked = ("--gpus=device=GPU-0123", "--network=none", "--entrypoint=printenv")
    shown = docker_engine.docker("run", "--rm", *asked, synthetic_image, "NVIDIA_VISIBLE_DEVICES")
    assert shown == "GPU-0123"


def test_it_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    """Code 3, and a sentence that says what to do: without root, without Docker, in a folder too deep for a socket."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("bash", "sed", "realpath", "id", "flock", "mkdir", "cat"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    without_root = said("up", str(folder), user=NOBODY)
    assert (without_root.returncode, "needs root" in without_root.stderr) == (3, True)
    without_docker = said("up", str(folder), environ={"PATH": str(tools), "HOME": "/tmp"})
    assert (without_docker.returncode, "apt-get install docker.io" in without_docker.stderr) == (3, True)
    deep = said("up", str(tmp_path / ("x" * 120)))
    assert (deep.returncode, "shorter folder" in deep.stderr) == (3, True)


@pytest.mark.parametrize("words", [(), ("start",), ("up", "--fast"), ("up", "a", "b")])
def test_mistakes_show_how_it_is_used(words: tuple[str, ...]) -> None:
    """Code 2, and every command."""
    run = said(*words)
    assert run.returncode == 2
    assert all(f"scripts/engine {command}" in run.stderr for command in ("up", "stop", "restart", "down", "env"))


def said(
    *words: str, user: int | None = None, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The script's answer; it is read from standard input, as not every user may read this folder."""
    command = [str(shutil.which("bash")), "-s", "--", *words]
    text = ENGINE.read_text("utf-8").replace('"$0"', f'"{ENGINE}"')
    return subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=60, user=user, env=environ, cwd="/"
    )


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def traces(folder: Path) -> list[str]:
    """Mounts and processes that belong to an engine."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {folder}/" in line]
    commands = [read(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    return mounts + [command for command in commands if f"{folder}/run/" in command]


def read(path: Path) -> str:
    """A command line; empty once its process is gone."""
    try:
        return path.read_text("utf-8", "replace").replace("\0", " ")
    except OSError:
        return ""
