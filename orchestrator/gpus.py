"""GPUs as values: what a card is, what it reads at one moment, and how it can fail. Nothing here asks a driver."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reelnet.errors import StartError


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or a MIG slice of one.

    uuid: `GPU-…`, of a slice `MIG-…`. index: the card's place in PCI bus order, as `nvidia-smi` counts; a slice has its
    card's. memory_bytes: None where the driver does not say. parent: a slice's card. instance: a slice's GPU instance.
    partitioned: a card in MIG mode, which computes nothing itself.
    """

    uuid: str
    name: str
    index: int
    memory_bytes: int | None
    parent: str | None = None
    instance: int | None = None
    partitioned: bool = False


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """The installed driver's version, and the newest CUDA version that it runs; None where it does not say."""

    version: str | None
    cuda: str | None


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A GPU at one moment; None for each fact that the card or its driver does not tell.

    utilisation: share of the last interval in which a kernel ran, 0 to 1. throttled: the members of THROTTLES that hold
    the clocks down. ecc_errors: uncorrected memory errors since the driver was loaded or the card was reset.
    recovery: what the driver asks the operator for, of RECOVERIES; `none` on a card that is well.
    """

    uuid: str
    memory_used_bytes: int | None = None
    memory_bytes: int | None = None
    utilisation: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    throttled: tuple[str, ...] | None = None
    ecc_errors: int | None = None
    recovery: str | None = None


@dataclass(frozen=True, slots=True)
class XidEvent:
    """The driver reported an XID error of these GPUs: a slice, or a card and all of its slices."""

    uuids: tuple[str, ...]
    code: int


class FaultKind(enum.StrEnum):
    """How a fault was noticed: the driver's error report, a card that no longer answers, its memory's error count."""

    XID = "xid"
    LOST = "lost"
    ECC = "ecc"


@dataclass(frozen=True, slots=True)
class GpuFault:
    """What is wrong with a GPU. code: the XID, the count of new memory errors, or 0 for a lost card.

    fatal: the card gives nothing right until it is reset; otherwise a new runner on it may work.
    """

    kind: FaultKind
    code: int
    text: str
    fatal: bool


class GpuLostError(Exception):
    """A GPU no longer answers; the text says how the driver put it."""


def with_cards(uuids: Iterable[str], gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """These GPUs and, of slices among them, the cards: power, temperature and memory errors are a card's alone."""
    parents = {gpu.uuid: gpu.parent for gpu in gpus if gpu.parent}
    return tuple(dict.fromkeys(one for uuid in uuids for one in (uuid, parents.get(uuid)) if one))


class DriverError(StartError):
    """NVIDIA's driver is there and does not work; the text says what the operator can do."""


THROTTLES = ("power_cap", "sync_boost", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
"""Reasons for clocks that are lower than asked for; idling and an operator's own settings are none."""
RECOVERIES = ("none", "reset", "reboot", "drain_p2p", "drain_and_reset", "imex", "bus_reset", "system_reboot")
"""What a driver (565 and later) can ask for, in the order of NVML's numbers."""
