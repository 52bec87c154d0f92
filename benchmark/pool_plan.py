"""What a local pool looks like, and what its nodes are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmark.client import Offer
from reelnet.console import installation, missing_extras
from reelnet.errors import StartError
from reelnet.pipelines import PIPELINES

Backend = Literal["tiny", "synthetic"]
SYNTHETIC = "synthetic/bars"
PRICE = {"mpix_step": "0.0000045"}


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A tiny model that a node serves: its id, the pipelines that it sells, and its runners' settings."""

    model: str
    pipelines: tuple[str, ...]
    flags: Mapping[str, str] = field(default_factory=dict)


TINY = (
    TinyModel("reelnet/tiny-random-sd", ("text-to-image",)),
    TinyModel("reelnet/tiny-random-svd", ("image-to-video",)),
)
"""What a node of a tiny pool serves where nothing else is planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """What a local pool looks like.

    `home` is a folder of its own for state and logs; what an earlier pool left in it is removed. `models` is where
    tiny models are looked for, and made when they are missing; `tiny` says which of them the nodes serve, in turn.
    `broadcaster_port` 0 takes a free one. `unit_s` is
    the synthetic backend's speed, seconds per megapixel·step; `speeds` divides it, a number for each node, which are
    then as many. `spread` is the sigma of a synthetic job's lognormal time, each node drawing its own; `output_bytes`
    is the size of a synthetic picture that is made once. Each node has `replicas` runners of a model, on `devices`
    (empty: those that it finds), and `queue` places for jobs that wait. `flags` are settings of its runners, `node`
    settings of the node itself, over those that a pool has. With `profiles`, a folder, components and
    runners are started under `benchmark.profiled`. `strangers` are addresses of further nodes, which somebody else
    runs; `environ` is added to the components' environment. With `image`, runners are containers of it, in the
    Docker engine at `docker_socket`.
    """

    home: Path
    models: Path
    nodes: int = 2
    backend: Backend = "tiny"
    tiny: tuple[tuple[TinyModel, ...], ...] = (TINY,)
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
    strangers: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None
    docker_socket: Path = Path("/var/run/docker.sock")
    start_timeout_s: float = 180.0

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self.speeds) or self.nodes

    def offers(self, number: int) -> frozenset[Offer]:
        """What a node (0: the first one) serves."""
        if self.backend == "synthetic":
            return frozenset((name, SYNTHETIC) for name in PIPELINES)
        return frozenset((name, tiny.model) for tiny in self.models_of(number) for name in tiny.pipelines)

    def models_of(self, number: int) -> tuple[TinyModel, ...]:
        """The tiny models of a node."""
        return self.tiny[number % len(self.tiny)]


def check_installation(plan: PoolPlan) -> None:
    """Raises StartError where a component of the pool is not installed."""
    runner = () if plan.image else ("runner", "diffusers") if plan.backend == "tiny" else ("runner",)
    if lacking := missing_extras("broadcaster", "orchestrator", *runner):
        raise StartError(f"a pool of its own needs more than is installed: {installation(*lacking)}")


def node_settings(plan: PoolPlan, number: int) -> dict[str, Any]:
    """The orchestrator.yaml of a node, but for its name and limits."""
    own = {"replicas": plan.replicas, "queue": plan.queue}
    return {
        "grpc": {"port": 0},
        "metrics": {"port": 0},
        **_engine(plan),
        "models": [
            {**model, **own, "flags": {**plan.flags, **model.get("flags", {})}} for model in _models(plan, number)
        ],
        **({"devices": list(plan.devices)} if plan.devices else {}),
        **plan.node,
    }


def _engine(plan: PoolPlan) -> dict[str, Any]:
    if plan.image is None:
        return {"engine": "process"}
    return {"engine": "docker", "image": plan.image, "docker": {"socket": str(plan.docker_socket)}}


def _models(plan: PoolPlan, number: int) -> list[dict[str, Any]]:
    if plan.backend == "synthetic":
        backend = _synthetic(plan, number)
        return [{"model": SYNTHETIC, "pipelines": _prices(*PIPELINES), "backend": backend}]
    return [
        {"model": tiny.model, "pipelines": _prices(*tiny.pipelines), "flags": tiny.flags}
        for tiny in plan.models_of(number)
    ]


def _prices(*pipelines: str) -> dict[str, Any]:
    return {name: {"price": dict(PRICE)} for name in pipelines}


def _synthetic(plan: PoolPlan, number: int) -> dict[str, Any]:
    speed = plan.speeds[number] if plan.speeds else 1.0
    options: dict[str, Any] = {"unit_s": plan.unit_s / speed, "spread": plan.spread, "spread_seed": number}
    if plan.output_bytes is not None:
        options["output_bytes"] = plan.output_bytes
    return {"synthetic": options}
