"""The doctor's look at what runs runners: the Docker engine, the runners' image, NVIDIA's driver and toolkit."""

from __future__ import annotations

import http.client
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from orchestrator.devices import CPU, inventory, needs_gpus
from orchestrator.docker_images import DIGEST_MARK, is_pinned
from orchestrator.gpus import DriverError, DriverFacts
from orchestrator.host import DockerAnswerError, DriverView, Host
from orchestrator.settings import SyntheticOptions
from reelnet.errors import ConfigError, printable
from reelnet.operating.doctor import Finding, bad, good, poor

GIB = 2**30
OLDEST_API = (1, 41)
RUNNER_CUDA = (13, 0)
"""What the runners' locked torch is built for; see locks/runner-full.txt."""
OLDEST_DRIVER = "580"
LEAST_DISK_BYTES = 2 * GIB
HOOKS = ("nvidia-container-runtime-hook", "nvidia-container-toolkit", "nvidia-ctk")
CDI_FOLDERS = ("etc/cdi", "var/run/cdi")
SILENT = (OSError, DockerAnswerError, http.client.HTTPException)


def docker(host: Host) -> Iterable[Finding]:
    """The Docker engine, if the node is to use it."""
    settings = host.settings
    if settings.engine == "process":
        yield good("not used: `engine: process`")
    elif settings.engine == "auto" and not _images(host):
        yield good("not used: no `image` is named, so runners are processes of the node's")
    else:
        yield from _docker(host)


def image(host: Host) -> Iterable[Finding]:
    """The runners' images."""
    if host.settings.engine == "process":
        yield good("not used: `engine: process`")
        return
    names = _images(host)
    if not names and host.settings.engine == "docker":
        yield bad("no container image is named", "build one with scripts/image and set `image`")
    elif not names:
        yield good("none is named; needed for `engine: docker` alone")
    for name in names:
        yield _image(host, name)


def driver(host: Host) -> Iterable[Finding]:
    """NVIDIA's driver, the configured devices, and whether the driver is new enough for the runners."""
    if not needs_gpus(host.settings.devices):
        yield good("not used: `devices` names no GPU")
        return
    try:
        session = host.open_driver()
    except DriverError as error:
        yield bad(str(error), "mend the driver, or set `devices: [cpu]`")
        return
    if session is None:
        yield from _devices(host, ())
        return
    try:
        yield from _session(host, session)
    finally:
        session.close()


def toolkit(host: Host) -> Iterable[Finding]:
    """What gives containers their GPUs."""
    settings = host.settings
    if settings.engine == "process" or not _images(host) or not needs_gpus(settings.devices):
        yield good("not used: no runner is a container with a GPU")
        return
    if settings.devices == ("auto",) and not (host.root / "proc/driver/nvidia").exists():
        yield good("not used: there is no NVIDIA driver")
        return
    yield _cdi(host) if settings.docker.gpu_request == "cdi" else _hook(host)


def _docker(host: Host) -> Iterator[Finding]:
    required = host.settings.engine == "docker"
    judge = bad if required else poor
    try:
        version, info = host.docker("/version"), host.docker("/info")
    except SILENT as error:
        instead = "" if required else "; runners will be processes of the node's"
        yield judge(f"{_why_silent(host, error)}{instead}", _what_to_do(host, error))
        return
    name = f"Docker {_word(version, 'Version')} (API {_word(version, 'ApiVersion')})"
    if _numbers(_word(version, "ApiVersion")) < OLDEST_API:
        yield judge(f"{name} is too old", "install Docker 20.10 or newer")
        return
    groups = _word(info, "CgroupVersion") or "1"
    yield good(f"{name} answers, control groups version {groups}, user {host.uid} may use it")
    if not (info.get("MemoryLimit", True) and info.get("PidsLimit", True)):
        yield poor("the engine cannot limit memory or processes", "turn the kernel's memory and pids controllers on")
    if not info.get("LiveRestoreEnabled"):
        yield poor(
            "live-restore is off: a restart of the engine ends every runner",
            'write {"live-restore": true} into /etc/docker/daemon.json and reload the engine',
        )
    yield from _docker_disk(host, str(info.get("DockerRootDir") or ""))


def _docker_disk(host: Host, folder: str) -> Iterator[Finding]:
    try:
        free = host.free_bytes(Path(folder)) if folder else None
    except OSError:
        return  # another user's, or on another machine's disk
    if free is not None and free < LEAST_DISK_BYTES:
        yield poor(f"{free / GIB:.1f} GiB free for the engine's images in {folder}", "docker image prune, or make room")


def _why_silent(host: Host, error: Exception) -> str:
    socket = host.docker_socket
    if isinstance(error, PermissionError):
        return f"user {host.uid} may not use {socket}"
    if isinstance(error, FileNotFoundError):
        return f"no Docker engine: {socket} is not there"
    if isinstance(error, ConnectionRefusedError):
        return f"no Docker engine listens at {socket}"
    return (
        f"the Docker engine at {socket} gives no sensible answer ({printable(str(error) or type(error).__name__, 200)})"
    )


def _what_to_do(host: Host, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "usermod -aG docker USER and log in anew (that group is as good as root), or set `engine: process`"
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return "install Docker and start it (systemctl start docker), set `docker.socket`, or set `engine: process`"
    return "look at it: systemctl status docker; journalctl -u docker"


def _images(host: Host) -> list[str]:
    """The images that runners are started from, each once."""
    named = [model.image or host.settings.image for model in host.settings.models] or [host.settings.image]
    return list(dict.fromkeys(name for name in named if name))


def _image(host: Host, name: str) -> Finding:
    judge = bad if host.settings.engine == "docker" else poor
    try:
        facts = host.docker(f"/images/{quote(name, safe='/:@')}/json")
    except DockerAnswerError as error:
        if error.status != 404:
            return judge(f"{name}: {error}", "look at it: docker image inspect")
        if DIGEST_MARK in name:
            return poor(f"{name} is not on this host yet", f"have it before the first start: docker pull {name}")
        return judge(f"{name} is not on this host", "build it with scripts/image, or name one by repository@sha256:…")
    except SILENT:
        return judge(f"{name}: the Docker engine does not answer", "see the line of docker")
    size = f"{int(facts.get('Size') or 0) / GIB:.1f} GiB"
    if is_pinned(name):
        return good(f"{name} is here, {size}")
    return poor(
        f"{name} is here, {size}, by a name that may mean another one tomorrow", f"set `image: {facts.get('Id')}`"
    )


def _session(host: Host, session: DriverView) -> Iterator[Finding]:
    facts = session.driver()
    if session.missing:
        yield bad(
            f"{session.missing} of the GPUs do not answer the driver",
            "see `nvidia-smi` and `dmesg | grep NVRM`; a card that fell off its bus needs a restart of the host",
        )
    yield from _devices(host, session.gpus)
    if session.gpus:
        yield _cuda(host, facts)


def _devices(host: Host, gpus: Iterable[Any]) -> Iterator[Finding]:
    try:
        devices = inventory(host.settings.devices, tuple(gpus))
    except ConfigError as error:
        yield bad(str(error), "set `devices` to what there is")
        return
    if host.settings.devices == ("auto",) and all(device.uuid is None for device in devices):
        yield poor(
            "no NVIDIA GPU: models run on the CPU", "for a GPU install NVIDIA's driver; else set `devices: [cpu]`"
        )
        return
    for device in devices:
        if device.name.startswith(CPU):
            continue
        size = "memory unknown" if device.memory_bytes is None else f"{device.memory_bytes / GIB:.0f} GiB"
        yield good(f"{device.name}: {device.title}, {size}, {device.uuid}")


def _cuda(host: Host, facts: DriverFacts) -> Finding:
    text = f"driver {facts.version or 'unknown'} runs CUDA {facts.cuda or 'unknown'}"
    needed = ".".join(map(str, RUNNER_CUDA))
    real = any(not isinstance(model.backend, SyntheticOptions) for model in host.settings.models)
    if facts.cuda is None:
        return poor(f"{text}; the runners need {needed}", f"see that the driver is {OLDEST_DRIVER} or newer")
    if _numbers(facts.cuda) >= RUNNER_CUDA:
        return good(f"{text}, the runners need {needed}")
    fix = f"install NVIDIA's driver {OLDEST_DRIVER} or newer"
    return bad(f"{text}, the runners need {needed}", fix) if real else poor(f"{text}, models need {needed}", fix)


def _hook(host: Host) -> Finding:
    found = next((name for name in HOOKS if host.which(name)), None)
    if found:
        return good(f"the NVIDIA Container Toolkit is installed ({found})")
    return bad(
        "the NVIDIA Container Toolkit is not installed: containers get no GPU",
        "install nvidia-container-toolkit, run `nvidia-ctk runtime configure --runtime=docker`, restart Docker",
    )


def _cdi(host: Host) -> Finding:
    specs = [spec for folder in CDI_FOLDERS for spec in _files(host.root / folder) if "nvidia" in spec]
    if specs:
        return good(f"CDI devices are described in {', '.join(specs)}")
    return bad(
        "no CDI description of the GPUs: containers get none",
        "run `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`, or set docker.gpu_request to device-request",
    )


def _files(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _word(document: Mapping[str, Any], key: str) -> str:
    return printable(str(document.get(key) or ""), 60)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
