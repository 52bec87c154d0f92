"""The devices that a node works with: which GPUs and CPUs, by the operator's names, and how much memory each has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.gpus import Gpu
from reelnet.errors import ConfigError

AUTO = "auto"
CPU = "cpu"
DEVICE_NAME = re.compile(r"auto|cpu|cuda:\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]{1,100}")
"""How a configuration may name a device."""


@dataclass(frozen=True, slots=True)
class Device:
    """One place for work. name: `cuda:0` (a card), `MIG-…` (a slice), `cpu/0`. uuid: None for a CPU.

    memory_bytes: of the card, of the slice, or a CPU's share of the host's; None where nobody says. title: in words.
    """

    name: str
    uuid: str | None
    memory_bytes: int | None
    title: str


def needs_gpus(configured: tuple[str, ...]) -> bool:
    """Whether the driver has to be asked for these devices."""
    return any(name != CPU for name in configured)


def inventory(
    configured: tuple[str, ...], gpus: Sequence[Gpu], host_memory_bytes: int | None = None
) -> tuple[Device, ...]:
    """The devices of these names, each one place for work. Raises ConfigError, which says what there is.

    `auto` is every GPU (of a card in MIG mode, its slices), or one CPU where there is none. `cuda:N` is the N-th card
    in PCI bus order. A UUID may be cut short while it names one GPU only. `cpu` n times is n places, with a share of
    the host's memory each; a GPU is one place.
    """
    if AUTO in configured and len(configured) > 1:
        raise ConfigError("devices: auto stands alone; name every device, or none")
    names = _found(gpus) if AUTO in configured else configured
    share = host_memory_bytes // max(1, names.count(CPU)) if host_memory_bytes else None
    devices = tuple(
        Device(f"{CPU}/{i}", None, share, "CPU") if name == CPU else _device(_named(name, gpus))
        for i, name in enumerate(names)
    )
    for name, count in Counter(device.name for device in devices).items():
        if count > 1:
            raise ConfigError(f"devices: {name} stands there {count} times; one job at a time computes on a GPU")
    return devices


def _found(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    usable = tuple(gpu.uuid for gpu in gpus if not gpu.partitioned)
    if gpus and not usable:
        raise ConfigError(
            "devices: every GPU is in MIG mode and none has a slice; make slices (nvidia-smi mig -cgi … -C), "
            "turn MIG off (nvidia-smi -mig 0), or write `devices: [cpu]`"
        )
    return usable or (CPU,)


def _named(name: str, gpus: Sequence[Gpu]) -> Gpu:
    """The one GPU of a name."""
    if name.startswith("cuda:"):
        matches = [gpu for gpu in gpus if gpu.parent is None and f"cuda:{gpu.index}" == name]
    else:
        matches = [gpu for gpu in gpus if gpu.uuid == name] or [gpu for gpu in gpus if gpu.uuid.startswith(name)]
    if len(matches) > 1:
        raise ConfigError(f"devices: {name} is the beginning of {_listed(matches)}; write more of it")
    if not matches:
        raise ConfigError(f"devices: there is no {name} on this host; there is {_listed(gpus) or 'no GPU'}, and cpu")
    if matches[0].partitioned:
        slices = _listed([gpu for gpu in gpus if gpu.parent == matches[0].uuid])
        raise ConfigError(f"devices: {name} is in MIG mode; name its slices: {slices or 'it has none yet'}")
    return matches[0]


def _device(gpu: Gpu) -> Device:
    return Device(gpu.uuid if gpu.parent else f"cuda:{gpu.index}", gpu.uuid, gpu.memory_bytes, gpu.name)


def _listed(gpus: Sequence[Gpu]) -> str:
    return ", ".join(gpu.uuid if gpu.parent else f"cuda:{gpu.index} ({gpu.uuid}, {gpu.name})" for gpu in gpus)
