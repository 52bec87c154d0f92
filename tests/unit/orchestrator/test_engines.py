"""Which engine a node takes, and what it says when it cannot have the one that was asked for."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from orchestrator.docker_engine import DockerEngine
from orchestrator.engine import EngineError
from orchestrator.engines import choose_engine, docker_options
from orchestrator.process_engine import ProcessEngine
from orchestrator.settings import OrchestratorSettings

MODEL = {"model": "synthetic/bars", "backend": {"synthetic": {}}}
INFO: dict[str, Any] = {"ServerVersion": "28.1", "MemTotal": 2**30, "OSType": "linux", "SecurityOptions": []}


def settings(**values: Any) -> OrchestratorSettings:
    """A node of one model, with an image."""
    return OrchestratorSettings.model_validate({"models": [MODEL], "image": "runner", **values})


@pytest.fixture
async def answering() -> AsyncIterator[tuple[Path, dict[str, Any]]]:
    """A socket where something answers as an engine does that is asked what it is; and its words, to be changed."""
    info = dict(INFO)

    async def answer(request: web.Request) -> web.Response:
        version = request.path == "/version"
        return web.json_response({"ApiVersion": "1.41", "Version": "28.1"} if version else info)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "docker.sock"
        await web.UnixSite(runner, str(socket)).start()
        yield socket, info
        await runner.cleanup()


async def test_auto_takes_docker_where_it_answers(answering: tuple[Path, dict[str, Any]]) -> None:
    """And so does `docker`; `process` does not ask."""
    for asked in ("auto", "docker"):
        engine = await choose_engine(settings(engine=asked, docker={"socket": answering[0]}), "id")
        assert isinstance(engine, DockerEngine)
        assert (await engine.fingerprint()).version == "28.1"
        await engine.close()
    assert isinstance(await choose_engine(settings(engine="process"), "id"), ProcessEngine)


async def test_auto_takes_processes_where_docker_is_not(tmp_path: Path) -> None:
    """What was asked for by name is an error instead, which says what to do."""
    nowhere = {"socket": tmp_path / "none.sock"}
    assert isinstance(await choose_engine(settings(docker=nowhere), "id"), ProcessEngine)
    with pytest.raises(EngineError, match="systemctl start docker"):
        await choose_engine(settings(engine="docker", docker=nowhere), "id")


async def test_processes_need_an_installed_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without one does not start a runner over and over: it says what to install, asked for or not."""
    monkeypatch.setattr("orchestrator.engines.missing_extras", lambda *extras: extras)
    for asked in ({"engine": "process"}, {"docker": {"socket": tmp_path / "none.sock"}}):
        with pytest.raises(EngineError, match=r"pip install 'reelnet\[runner\]'"):
            await choose_engine(settings(**asked), "id")


async def test_an_engine_that_does_not_suit_is_not_taken(answering: tuple[Path, dict[str, Any]]) -> None:
    """It answers, and could not run a runner."""
    socket, info = answering
    info["OperatingSystem"] = "Docker Desktop"
    assert isinstance(await choose_engine(settings(docker={"socket": socket}), "id"), ProcessEngine)
    with pytest.raises(EngineError, match="Docker Desktop"):
        await choose_engine(settings(engine="docker", docker={"socket": socket}), "id")


async def test_docker_needs_an_image_for_each_model(answering: tuple[Path, dict[str, Any]]) -> None:
    """Of the node, or of the model."""
    there = {"docker": {"socket": answering[0]}, "image": None}
    assert isinstance(await choose_engine(settings(**there), "id"), ProcessEngine)
    with pytest.raises(EngineError, match=r"synthetic/bars.*scripts/image"):
        await choose_engine(settings(engine="docker", **there), "id")
    engine = await choose_engine(settings(**there, models=[{**MODEL, "image": "runner"}]), "id")
    assert isinstance(engine, DockerEngine)
    await engine.close()


def test_the_environment_names_a_socket() -> None:
    """As for Docker's own command; the settings win, and an engine elsewhere cannot be used."""
    named = {"DOCKER_HOST": "unix:///run/user/1/docker.sock"}
    assert docker_options(settings(), {}).socket == Path("/var/run/docker.sock")
    assert docker_options(settings(), named).socket == Path("/run/user/1/docker.sock")
    assert docker_options(settings(docker={"socket": "/x.sock"}), named).socket == Path("/x.sock")
    for host in ("tcp://10.0.0.1:2375", "ssh://user@host"):
        with pytest.raises(EngineError, match="has to run on this host"):
            docker_options(settings(), {"DOCKER_HOST": host})
