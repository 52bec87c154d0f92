"""Which engine runs a node's runners: Docker where it answers and an image is named, else processes of the node's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from orchestrator.compiled_code import CompiledCode
from orchestrator.docker_container import DockerOptions
from orchestrator.docker_engine import DockerEngine
from orchestrator.engine import EngineError, RunnerEngine
from orchestrator.process_engine import ProcessEngine
from orchestrator.settings import OrchestratorSettings
from reelnet.console import installation, missing_extras

UNIX = "unix://"
log = structlog.get_logger()


async def choose_engine(
    settings: OrchestratorSettings, node_id: str, compiled: CompiledCode | None = None
) -> RunnerEngine:
    """The engine that the settings ask for; `auto` says in the log what it took and why.

    Raises EngineError when what is asked for cannot be used.
    """
    if settings.engine == "process":
        return _process(compiled)
    try:
        engine = await _docker(settings, node_id, compiled)
    except EngineError as error:
        if settings.engine == "docker":
            raise
        log.info("engine chosen", engine="process", reason=str(error))
        return _process(compiled)
    log.info("engine chosen", engine="docker", socket=str(engine.socket))
    return engine


def _process(compiled: CompiledCode | None) -> ProcessEngine:
    if missing_extras("runner"):
        way = f"{installation('runner')}, or set `engine: docker` and `image`"
        raise EngineError(f"engine process: no runner is installed: {way}")
    return ProcessEngine(compiled=compiled)


async def _docker(settings: OrchestratorSettings, node_id: str, compiled: CompiledCode | None) -> DockerEngine:
    if without := without_image(settings):
        raise EngineError(f"image: no container image is named for {without}; build one: scripts/image")
    engine = DockerEngine(node_id, docker_options(settings), compiled)
    try:
        await engine.fingerprint()
    except EngineError:
        await engine.close()
        raise
    return engine


def without_image(settings: OrchestratorSettings) -> str:
    """Models that no container could run."""
    return ", ".join(model.model_id for model in settings.models if not (model.image or settings.image))


def docker_options(settings: OrchestratorSettings, environ: Mapping[str, str] = os.environ) -> DockerOptions:
    """How Docker is worked with. `$DOCKER_HOST` counts where the settings name no socket. Raises EngineError."""
    docker = settings.docker
    return DockerOptions(
        socket=docker.socket if "socket" in docker.model_fields_set else _local(environ, docker.socket),
        api_s=docker.api_s,
        pull_s=docker.pull_s,
        gpu_request=docker.gpu_request,
    )


def _local(environ: Mapping[str, str], default: Path) -> Path:
    host = environ.get("DOCKER_HOST", "")
    if not host:
        return default
    if host.startswith(UNIX):
        return Path(host.removeprefix(UNIX))
    raise EngineError(
        f"DOCKER_HOST names an engine over {host.partition(':')[0]}: a runner shares a Unix socket and files with its "
        "node, so the engine has to run on this host; unset DOCKER_HOST, or set docker.socket"
    )
