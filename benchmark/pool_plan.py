"""What a local pool looks like, and what its nodes are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmark.client import Offer
from reelnet.pipelines import PIPELINES

Backend = Literal["tiny", "synthetic"]
TINY = {"text-to-image": "reelnet/tiny-random-sd", "image-to-video": "reelnet/tiny-random-svd"}
SYNTHETIC = "synthetic/bars"
PRICE = {"mpix_step": "0.0000045"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """What a local pool looks like.

    `home` is a folder of its own for state and logs; what an earlier pool left in it is removed. `models` is where
    tiny models are looked for, and made when they are missing. `broadcaster_port` 0 takes a free one. `unit_s` is
    the synthetic backend's speed, seconds per megapixel·step; `speeds` divides it, a number for each node, which are
    then as many. `spread` is the sigma of a synthetic job's lognormal time, each node drawing its own; `output_bytes`
    is the size of a synthetic picture that is made once. Each node has `replicas` runners of a model, on `devices`
    (empty: those that it finds), and `queue` places for jobs that wait. `flags` are settings of its runners, `node`
    settings of the node itself, over those that a pool has. With `profiles`, a folder, components and
    runners are started under `benchmark.profiled`. With `image`, runners are containers of it, in the
    Docker engine at `docker_socket`.
    """

    home: Path
    models: Path
    nodes: int = 2
    backend: Backend = "tiny"
    broadcaster_port: int = 0
    unit_s: float = 0.001
    speeds: tuple[float, ...] = ()
    spread: float = 0.0
    output_bytes: int | None = None
    replicas: int = 1
    devices: tuple[str, ...] = ()
    queue: int = 8
    flags: Mapping[str, str] = field(default_factory=dict)
    node: Mapping[str, Any] = field(default_factory=dict)
    profiles: Path | None = None
    image: str | None = None
    docker_socket: Path = Path("/var/run/docker.sock")
    start_timeout_s: float = 180.0

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self.speeds) or self.nodes

    @property
    def offers(self) -> frozenset[Offer]:
        """What every node serves."""
        if self.backend == "synthetic":
            return frozenset((name, SYNTHETIC) for name in PIPELINES)
        return frozenset(TINY.items())


def node_settings(plan: PoolPlan, number: int) -> dict[str, Any]:
    """The orchestrator.yaml of a node, but for its name and limits."""
    own = {"replicas": plan.replicas, "queue": plan.queue, "flags": dict(plan.flags)}
    return {
        "grpc": {"port": 0},
        "metrics": {"port": 0},
        **_engine(plan),
        "models": [{**model, **own} for model in _models(plan, number)],
        **({"devices": list(plan.devices)} if plan.devices else {}),
        **plan.node,
    }


def _engine(plan: PoolPlan) -> dict[str, Any]:
    if plan.image is None:
        return {"engine": "process"}
    return {"engine": "docker", "image": plan.image, "docker": {"socket": str(plan.docker_socket)}}


def _models(plan: PoolPlan, number: int) -> list[dict[str, Any]]:
    if plan.backend == "synthetic":
        return [{"model": SYNTHETIC, "pipelines": _prices(*PIPELINES), "backend": _synthetic(plan, number)}]
    return [{"model": model, "pipelines": _prices(name)} for name, model in TINY.items()]


def _prices(*pipelines: str) -> dict[str, Any]:
    return {name: {"price": dict(PRICE)} for name in pipelines}


def _synthetic(plan: PoolPlan, number: int) -> dict[str, Any]:
    speed = plan.speeds[number] if plan.speeds else 1.0
    options: dict[str, Any] = {"unit_s": plan.unit_s / speed, "spread": plan.spread, "spread_seed": number}
    if plan.output_bytes is not None:
        options["output_bytes"] = plan.output_bytes
    return {"synthetic": options}
