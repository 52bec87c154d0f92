"""Nodes' engines for tests: each with a node id of its own, behind the filter, with nothing left at the end."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.compiled_code import CompiledCode
from orchestrator.docker_container import NODE_LABEL, DockerOptions
from orchestrator.docker_engine import DockerEngine
from orchestrator.engine import Resources, RunnerSpec
from tests.docker.engines import TestEngine
from tests.fakes.docker_proxy import DockerProxy, docker_proxy

OPTIONS = DockerOptions()


@dataclass(frozen=True)
class NodeEngine:
    """A node's DockerEngine, the filter that it goes through, and the engine behind."""

    id: str
    engine: DockerEngine
    proxy: DockerProxy
    docker: TestEngine
    options: DockerOptions
    compiled: Path
    later: list[DockerEngine] = field(default_factory=list)

    def again(self) -> DockerEngine:
        """What the node has after it was started again."""
        self.later.append(DockerEngine(self.id, self.options, CompiledCode(self.compiled)))
        return self.later[-1]

    def containers(self) -> list[str]:
        """The ids of its containers, whatever their state."""
        return self.docker.docker("ps", "-aq", "--no-trunc", "--filter", f"label={NODE_LABEL}={self.id}").split()


@contextlib.asynccontextmanager
async def docker_node(docker: TestEngine, options: DockerOptions = OPTIONS) -> AsyncIterator[NodeEngine]:
    """A node; closed at the end, and nothing of it may be left then."""
    node_id = secrets.token_hex(26)
    with tempfile.TemporaryDirectory(prefix="node-") as folder:
        async with docker_proxy(docker.socket, Path(folder) / "docker.sock") as proxy:
            through = replace(options, socket=proxy.socket)
            compiled = Path(folder).resolve() / "compiled"
            engine = DockerEngine(node_id, through, CompiledCode(compiled))
            node = NodeEngine(node_id, engine, proxy, docker, through, compiled)
            try:
                yield node
            finally:
                for engine in (node.engine, *node.later):
                    await engine.close()
            assert node.containers() == [], "close leaves none"
            assert proxy.refused == [], "only calls that SECURITY.md lists are made"


def runner_spec(folder: Path, image: str, slot: str = "slot-0", **more: Any) -> RunnerSpec:
    """A synthetic runner of that slot, with these fields otherwise; its folder is made."""
    place = folder / slot
    place.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "slot": slot,
        "model_id": "synthetic/bars",
        "model": "synthetic/bars",
        "backend": "synthetic",
        "device": "cpu/0",
        "folder": place,
        "options": {"unit_s": 0},
        "image": image,
        "resources": Resources(pids=256, shm_bytes=2**20),
    }
    return RunnerSpec(**{**values, **more})
