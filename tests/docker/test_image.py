"""The runner's image without a model library, in containers as a node starts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from tests.docker.containers import SYNTHETIC, USER, running, until_state
from tests.docker.engines import BUILD_S, HARDENED, IMAGE, ROOT, TestEngine

FOX = {"prompt": "a fox", "seed": 1, "width": 64, "height": 64, "num_inference_steps": 3}
PACKAGE = re.compile(r"opt/reelnet/lib/python3\.\d+/site-packages/([^/]+)")
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"


@pytest.mark.parametrize("user", [USER, 12345])
async def test_a_hardened_runner_does_a_job(
    docker_engine: TestEngine, synthetic_image: str, tmp_path: Path, user: int
) -> None:
    """Without network, capabilities or a writable root, as its own user or as any other one."""
    tmp_path.chmod(0o777)
    options = (*SYNTHETIC, *([] if user == USER else [f"--user={user}:{user}"]))
    async with running(docker_engine, synthetic_image, tmp_path, *options) as container:
        await until_state(container, tmp_path, "READY")
        answer = await container.job(FOX)
        assert answer.last["event"] == "done"
        assert answer.pixels().shape == (64, 64, 3)
        assert container.run("id", "-u") == str(user)
        assert [line.split(":")[0].strip() for line in container.run("cat", "/proc/net/dev").splitlines()[2:]] == ["lo"]
        assert "0000000000000000" in container.run("grep", "CapEff", "/proc/1/status")
        with pytest.raises(AssertionError, match="Read-only file system"):
            container.run("touch", "/opt/reelnet/x")


async def test_the_health_check_tells_a_runner_that_can_work(
    docker_engine: TestEngine, synthetic_image: str, tmp_path: Path
) -> None:
    """The engine shows it as healthy, and as unhealthy once it does not answer any more."""
    options = (*SYNTHETIC, "--health-interval=0.3s")
    async with running(docker_engine, synthetic_image, tmp_path, *options) as container:
        await container.until("{{.State.Health.Status}}", "healthy")
        (tmp_path / "runner.sock").unlink()
        await container.until("{{.State.Health.Status}}", "unhealthy")
        assert "no answer" in container.inspect("{{json .State.Health.Log}}")


async def test_a_runner_that_cannot_be_set_up_is_not_healthy(
    docker_engine: TestEngine, synthetic_image: str, tmp_path: Path
) -> None:
    """It stays, to say why: here that this image has no model library."""
    options = ("--env=REELNET_RUNNER_MODEL=/models/none", "--env=REELNET_RUNNER_BACKEND=diffusers")
    async with running(docker_engine, synthetic_image, tmp_path, *options) as container:
        health = await until_state(container, tmp_path, "SETUP_FAILED")
        assert health["reason"]
        with pytest.raises(AssertionError, match="SETUP_FAILED"):
            container.run("python", "-m", "runner.probe")


async def test_health_checks_keep_no_runner_that_nobody_needs(
    docker_engine: TestEngine, synthetic_image: str, tmp_path: Path
) -> None:
    """`idle_exit_s` counts what others ask; the container's own checks are not that."""
    options = (*SYNTHETIC, "--env=REELNET_RUNNER_IDLE_EXIT_S=2", "--health-interval=0.2s")
    async with running(docker_engine, synthetic_image, tmp_path, *options) as container:
        await container.until("{{.State.Health.Status}}", "healthy")
        await container.until("{{.State.Status}}", "exited")
        assert container.inspect("{{.State.ExitCode}}") == "0"


async def test_stopping_is_clean_and_quick(docker_engine: TestEngine, synthetic_image: str, tmp_path: Path) -> None:
    """The runner is the container's first process and takes SIGTERM itself: code 0, no socket left."""
    async with running(docker_engine, synthetic_image, tmp_path, *SYNTHETIC) as container:
        await until_state(container, tmp_path, "READY")
        docker_engine.docker("stop", "--time=60", container.id)
        assert container.inspect("{{.State.ExitCode}}") == "0"
    assert not (tmp_path / "runner.sock").exists()


@pytest.mark.parametrize(
    ("options", "command", "code", "said"),
    [
        ((), (), 2, "model: Field required"),
        ((), ("serve", "--modle", "x"), 2, "No such option"),
        (("--env=REELNET_RUNNER_SOCKET=/nowhere/x.sock", *SYNTHETIC), (), 3, "does its folder exist"),
        ((), ("models", "make-tiny", "/tmp/x"), 3, "torch is not installed"),
    ],
)
def test_the_exit_codes_are_those_of_the_command(
    docker_engine: TestEngine,
    synthetic_image: str,
    options: tuple[str, ...],
    command: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    """2 for usage and configuration, 3 for what cannot start."""
    arguments = docker_engine.command("run", "--rm", *HARDENED, *options, synthetic_image, *command)
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (run.returncode, said in run.stderr) == (code, True), run.stderr


class Layers(NamedTuple):
    """The names of the files that each layer brings: those of the base, and those above it."""

    base: list[list[str]]
    own: list[list[str]]


@pytest.fixture(scope="module")
def layers(docker_engine: TestEngine, synthetic_image: str, tmp_path_factory: pytest.TempPathFactory) -> Layers:
    """The files of each layer."""
    file = tmp_path_factory.mktemp("saved") / "image.tar"
    docker_engine.docker("save", "--output", str(file), synthetic_image)
    try:
        with tarfile.open(file) as saved:
            (manifest,) = json.load(member(saved, "manifest.json"))
            files = [names(member(saved, layer)) for layer in manifest["Layers"]]
    finally:
        file.unlink()
    below = len(_layers(docker_engine, docker_engine.build("base")))
    return Layers(base=files[:below], own=files[below:])


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A file of an archive."""
    file = archive.extractfile(name)
    assert file, name
    return file


def names(layer: IO[bytes]) -> list[str]:
    """The files of a layer."""
    with tarfile.open(fileobj=layer) as archive:
        return [name.removeprefix("./") for name in archive.getnames()]


def test_no_layer_has_what_is_not_needed(layers: Layers) -> None:
    """No model library, no other component, no tests, no tool of the build, in no layer, hidden ones included."""
    files = [file for layer in layers.own for file in layer]
    packages = {found[1] for file in files if (found := PACKAGE.match(file))}
    assert {"runner", "reelnet", "uvicorn", "numpy"} <= packages
    assert not packages & {"torch", "diffusers", "transformers", "broadcaster", "orchestrator", "benchmark", "tests"}
    assert not packages & {"uv", "pip", "hatchling", "docker", "pytest"}
    assert not [file for file in files if file.startswith(("build", "root/", "models/")) or "Dockerfile" in file]


def test_the_authorities_of_the_building_machine_stay_there(layers: Layers) -> None:
    """Only the base has a list of certificate authorities at the system's place, and no layer has a private key."""
    files = [file for layer in layers.own for file in layer]
    assert any(AUTHORITIES in layer for layer in layers.base)
    assert not [file for file in files if file.startswith("etc/ssl") or file.endswith(("ca.crt", ".key"))]


def test_modules_are_compiled(layers: Layers) -> None:
    """A root that is read-only would have each start compile them again."""
    files = {file for layer in layers.own for file in layer}
    modules = [Path(file) for file in files if "/site-packages/runner/" in file and file.endswith(".py")]
    assert modules
    compiled = {file.partition(".cpython-")[0] for file in files if file.endswith(".pyc")}
    assert not [module for module in modules if str(module.parent / "__pycache__" / module.stem) not in compiled]


def test_the_image_says_what_it_is(docker_engine: TestEngine, synthetic_image: str) -> None:
    """By the labels of the Open Container Initiative; and it names a user by number, so that an engine can check it."""
    (about,) = json.loads(docker_engine.docker("image", "inspect", synthetic_image))
    labels = {name.rpartition(".")[2]: value for name, value in about["Config"]["Labels"].items()}
    assert labels["title"] == "Reelnet runner"
    assert labels["licenses"] == "Apache-2.0 AND GPL-3.0-or-later", "PyAV's wheel brings x264"
    assert labels["version"] == "0.1.0"
    assert labels["revision"]
    assert about["Config"]["User"] == f"{USER}:{USER}"


def test_what_has_not_changed_is_not_built_again(
    docker_engine: TestEngine, synthetic_image: str, tmp_path: Path
) -> None:
    """A changed file makes another image, without installing anything again; taken back, it is the first one again."""
    assert docker_engine.build("synthetic") == synthetic_image
    copy = tmp_path / "copy"
    for part in ("scripts", "locks", "runner", "proto"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (".dockerignore", "LICENSE", "NOTICE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / file, copy / file)
    assert _built(copy, docker_engine) == synthetic_image
    (copy / "runner" / "__init__.py").write_text('"""Another runner."""\n')
    other = _built(copy, docker_engine)
    try:
        assert other != synthetic_image
        ours, theirs = _layers(docker_engine, synthetic_image), _layers(docker_engine, other)
        assert (ours[:-1], ours[-1] == theirs[-1]) == (theirs[:-1], False)
    finally:
        docker_engine.docker("image", "rm", "--force", other)
        docker_engine.docker("tag", synthetic_image, "reelnet-runner:synthetic")
    assert docker_engine.build("synthetic") == synthetic_image


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("tiny",), 2, "scripts/image base|synthetic|full"),
        (("full", "--fast", "yes"), 2, "scripts/image base|synthetic|full"),
        (("synthetic", "--socket", "/nowhere/docker.sock"), 3, "scripts/engine up"),
        (("synthetic", "--base", "no-such-image:1"), 1, "no such image here, nor in a registry"),
    ],
)
def test_the_script_says_what_to_do(docker_engine: TestEngine, words: tuple[str, ...], code: int, message: str) -> None:
    """Code 2 for usage, 3 without an engine, 1 for a build that fails."""
    socket = [] if "--socket" in words else ["--socket", str(docker_engine.socket)]
    run = subprocess.run([str(IMAGE), *words, *socket], capture_output=True, text=True, timeout=60)
    assert (run.returncode, message in run.stderr) == (code, True), run.stderr


def _built(copy: Path, engine: TestEngine) -> str:
    """The id of the image that the copy's script makes."""
    command = [str(copy / "scripts" / "image"), "synthetic", "--socket", str(engine.socket)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()[1]


def _layers(engine: TestEngine, image: str) -> list[str]:
    """The digests of an image's layers."""
    return list(json.loads(engine.docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", image)))
