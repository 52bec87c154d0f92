"""The doctor before a real engine: it finds what is there, asks no more than a node may, and leaves nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.doctor_checks_models import CHECKS
from orchestrator.host import this_host
from orchestrator.settings import OrchestratorSettings
from reelnet.operating.doctor import Line, Verdict, examine
from tests.docker.engines import TestEngine
from tests.fakes.docker_proxy import docker_proxy

ASKED = ("docker", "image", "tiny job")


async def findings(docker: TestEngine, folder: Path, **values: Any) -> list[Line]:
    """What is found behind the filter that SECURITY.md describes, which has nothing to refuse."""
    async with docker_proxy(docker.socket, folder / "docker.sock") as proxy:
        base = {"engine": "docker", "devices": ["cpu"], "home": folder, "docker": {"socket": proxy.socket}}
        models = [{"model": "synthetic/bars", "backend": "synthetic"}]
        host = this_host(OrchestratorSettings.model_validate({**base, "models": models, **values}))
        checks = [check for check in CHECKS if check.name in ASKED]
        lines = await asyncio.to_thread(lambda: list(examine(host, checks)))
        assert proxy.refused == []
    return lines


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short path: a socket lies in it."""
    return tmp_path_factory.mktemp("d")


async def test_an_engine_that_works(docker_engine: TestEngine, synthetic_image: str, folder: Path) -> None:
    """Each check says so, the tiny job by a container, of which nothing is left."""
    before = docker_engine.docker("ps", "-aq")
    lines = await findings(docker_engine, folder, image=synthetic_image)
    assert all(line.finding.verdict is not Verdict.FAIL for line in lines), lines
    texts = {line.check: line.finding.text for line in lines}
    assert texts["image"].startswith(f"{synthetic_image} is here")
    assert texts["tiny job"].startswith("engine docker: a synthetic runner started, drew ")
    assert docker_engine.docker("ps", "-aq") == before


async def test_an_image_that_is_not_there(docker_engine: TestEngine, folder: Path) -> None:
    """The image's own line says what to do, and the tiny job fails without leaving anything."""
    before = docker_engine.docker("ps", "-aq")
    lines = {line.check: line.finding for line in await findings(docker_engine, folder, image="nobody/has:this")}
    assert lines["image"].verdict is lines["tiny job"].verdict is Verdict.FAIL
    assert "scripts/image" in lines["image"].fix
    assert docker_engine.docker("ps", "-aq") == before
