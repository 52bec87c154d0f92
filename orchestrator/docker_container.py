"""A runner's container as the Docker engine is asked for it: what it may see, use and do. Pure data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from orchestrator.engine import RunnerSpec
from orchestrator.runner_command import COMPILE_CACHE, SOCKET_NAME, flag_environment, serve_words

NODE_LABEL, SLOT_LABEL, SPEC_LABEL, IMAGE_LABEL = "reelnet.node", "reelnet.slot", "reelnet.spec", "reelnet.image"
SOCKET_FOLDER = PurePosixPath("/run/reelnet")
WEIGHTS_FOLDER = PurePosixPath("/model")
CODE_FOLDER = PurePosixPath("/compiled")
NODE_ID_CHARS = 12
"""Characters of the node's id in a container's name; the label has all of it."""
OPEN_FILES = 16_384
OOM_SCORE_ADJ = 500
"""When the host itself runs out of memory, a runner goes before the host's own services."""
LOG_FILES, LOG_FILE_BYTES = 2, 1024**2


@dataclass(frozen=True, slots=True)
class DockerOptions:
    """How the node works with Docker: `api_s` bounds a call, `pull_s` the download of an image."""

    socket: Path = Path("/var/run/docker.sock")
    api_s: float = 30
    pull_s: float = 3600
    tmp_bytes: int = 1024**3
    gpu_request: Literal["device-request", "cdi"] = "device-request"


@dataclass(frozen=True, slots=True)
class Weights:
    """What of the host is mounted, read-only, and where the model's folder lies below it."""

    source: Path
    inside: str = "."

    @property
    def seen(self) -> str:
        """The model's folder as the runner sees it."""
        return str(WEIGHTS_FOLDER / self.inside)


@dataclass(frozen=True, slots=True)
class Placement:
    """What the engine found out for one runner: the image's id, the user `uid:gid`, its bound in memory.

    `code` is the host's folder for what the runner compiles, None for a runner that compiles nothing.
    """

    node_id: str
    image_id: str
    user: str
    memory_bytes: int
    weights: Weights | None = None
    init: bool = True
    code: Path | None = None


def container_name(node_id: str, slot: str) -> str:
    """One name for each slot of a node: two runners of a slot cannot be."""
    return f"reelnet-{node_id[:NODE_ID_CHARS].lower()}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', slot)}"


def creation(spec: RunnerSpec, placement: Placement, options: DockerOptions) -> dict[str, Any]:
    """The body of the request that makes the container (Docker Engine API 1.41, `POST /containers/create`)."""
    model = placement.weights.seen if placement.weights else spec.model
    return {
        "Image": placement.image_id,
        "Cmd": serve_words(spec, model, Path(SOCKET_FOLDER / SOCKET_NAME)),
        "Env": [f"{name}={value}" for name, value in sorted(environment(spec, options, placement.code).items())],
        "User": placement.user,
        "WorkingDir": "/tmp",  # noqa: S108  (the container's own)
        "Labels": {
            NODE_LABEL: placement.node_id,
            SLOT_LABEL: spec.slot,
            SPEC_LABEL: spec.fingerprint,
            IMAGE_LABEL: spec.image or "",
        },
        "Healthcheck": {"Test": ["NONE"]},  # the node asks by itself
        "HostConfig": {
            **_isolation(placement),
            **_bounds(spec, placement, options),
            "Mounts": _mounts(spec, placement),
            "DeviceRequests": _devices(spec.gpu, options),
        },
    }


def environment(spec: RunnerSpec, options: DockerOptions, code: Path | None = None) -> dict[str, str]:
    """The runner's environment over its image's. An image that asks for every GPU gets its slot's, or none."""
    by_hook = spec.gpu if options.gpu_request == "device-request" else None
    own = {
        "HOME": "/tmp",  # noqa: S108  (the container's own)
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "NVIDIA_VISIBLE_DEVICES": by_hook or "void",
        "REELNET_RUNNER_IDLE_EXIT_S": f"{spec.resources.idle_exit_s:g}",
    }
    if code:
        own[COMPILE_CACHE] = str(CODE_FOLDER)
    if spec.gpu is None:
        own["CUDA_VISIBLE_DEVICES"] = ""
    return {**flag_environment(spec), **own}


def _isolation(placement: Placement) -> dict[str, Any]:
    """What the runner cannot do. The engine's own seccomp and AppArmor profiles stay on."""
    return {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "IpcMode": "private",
        "Init": placement.init,
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
    }


def _bounds(spec: RunnerSpec, placement: Placement, options: DockerOptions) -> dict[str, Any]:
    """What the runner may use. Equal bounds on memory and on memory with swap mean no swap."""
    return {
        "Memory": placement.memory_bytes,
        "MemorySwap": placement.memory_bytes,
        "OomScoreAdj": OOM_SCORE_ADJ,
        "PidsLimit": spec.resources.pids,
        "ShmSize": spec.resources.shm_bytes,
        "Tmpfs": {"/tmp": f"rw,nosuid,nodev,noexec,mode=1777,size={options.tmp_bytes}"},  # noqa: S108
        "Ulimits": [
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "nofile", "Soft": OPEN_FILES, "Hard": OPEN_FILES},
        ],
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(LOG_FILE_BYTES), "max-file": str(LOG_FILES)},
        },
    }


def _mounts(spec: RunnerSpec, placement: Placement) -> list[dict[str, Any]]:
    mounts = [_bind(spec.folder, SOCKET_FOLDER, read_only=False)]
    if placement.weights:
        mounts.append(_bind(placement.weights.source, WEIGHTS_FOLDER, read_only=True))
    if placement.code:
        mounts.append(_bind(placement.code, CODE_FOLDER, read_only=False))
    return mounts


def _bind(source: Path, target: PurePosixPath, *, read_only: bool) -> dict[str, Any]:
    """A folder of the host, without what else is mounted below it: read-only would not hold there."""
    return {
        "Type": "bind",
        "Source": str(source.resolve()),
        "Target": str(target),
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
    }


def _devices(gpu: str | None, options: DockerOptions) -> list[dict[str, Any]]:
    if gpu is None:
        return []
    if options.gpu_request == "cdi":
        return [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={gpu}"]}]
    return [{"Driver": "nvidia", "DeviceIDs": [gpu], "Capabilities": [["gpu", "compute", "utility"]]}]
