"""The metrics of a node's GPUs, by UUID: a card keeps it wherever it is plugged in and whatever else is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from orchestrator.gpu_watch import GpuWatch
from orchestrator.gpus import THROTTLES, DriverFacts, Gpu, GpuReading
from orchestrator.xids import XIDS
from reelnet.errors import printable
from reelnet.metrics import LABEL_CHARS, OTHER, Family, Label, Labels, Values, counter, gauge

UUID = Label("uuid", "the node's GPUs and MIG slices, as `nvidia-smi -L` prints them")
XID = Label("xid", "the error's number, of those that a node knows; `other`")
THROTTLE = Label("reason", ", ".join(f"`{reason}`" for reason in THROTTLES))
INFO = gauge(
    "reelnet_gpu_info", "Always 1; its labels say what the GPU is.", UUID,
    Label("name", "the product's name"), Label("driver", "the driver's version"),
    Label("cuda", "the newest CUDA version that the driver runs"),
)  # fmt: skip
UP = gauge("reelnet_gpu_up", "1 while the GPU may work; 0 with a fatal fault or without an answer.", UUID)
MEMORY = gauge("reelnet_gpu_memory_bytes", "The GPU's memory.", UUID, unit="bytes")
USED = gauge("reelnet_gpu_memory_used_bytes", "Memory in use, by every process and the driver.", UUID, unit="bytes")
UTILISATION = gauge(
    "reelnet_gpu_utilisation_ratio", "Share of the last interval, up to a second, in which a kernel ran.", UUID,
    unit="ratio",
)  # fmt: skip
TEMPERATURE = gauge("reelnet_gpu_temperature_celsius", "Temperature of the chip.", UUID, unit="celsius")
POWER = gauge("reelnet_gpu_power_watts", "Power that the board draws.", UUID, unit="watts")
THROTTLED = gauge("reelnet_gpu_throttled", "1 while this holds the GPU's clocks down, else 0.", UUID, THROTTLE)
ECC_ERRORS = counter(
    "reelnet_gpu_ecc_errors_total", "Memory errors that could not be corrected, since the driver's load or a reset.",
    UUID,
)  # fmt: skip
XID_ERRORS = counter("reelnet_gpu_xid_errors_total", "Xid errors that the driver reported.", UUID, XID)
FAMILIES = (INFO, UP, MEMORY, USED, UTILISATION, TEMPERATURE, POWER, THROTTLED, ECC_ERRORS, XID_ERRORS)
FACTS: tuple[tuple[Family, Callable[[GpuReading], float | None]], ...] = (
    (MEMORY, lambda reading: reading.memory_bytes),
    (USED, lambda reading: reading.memory_used_bytes),
    (UTILISATION, lambda reading: reading.utilisation),
    (TEMPERATURE, lambda reading: reading.temperature_c),
    (POWER, lambda reading: reading.power_w),
    (ECC_ERRORS, lambda reading: reading.ecc_errors),
)
"""What is a plain fact of a reading; a card that does not tell it has no series of it."""


def show_gpus(registry: CollectorRegistry, gpus: Sequence[Gpu], driver: DriverFacts, watch: GpuWatch) -> None:
    """Shows these GPUs at each scrape as the watch knows them then; it asks the driver nothing."""
    versions = (driver.version or "", driver.cuda or "")
    info: Values = {(gpu.uuid, printable(gpu.name, LABEL_CHARS), *versions): 1.0 for gpu in gpus}
    INFO.read(registry, lambda: info)
    UP.read(registry, lambda: {(g.uuid,): g.uuid in watch.latest and not watch.problem(g.uuid) for g in gpus})
    for family, fact in FACTS:
        family.read(registry, _reader(watch, fact))
    THROTTLED.read(registry, lambda: _throttled(watch))
    XID_ERRORS.read(registry, lambda: _xids(watch))


def _reader(watch: GpuWatch, fact: Callable[[GpuReading], float | None]) -> Callable[[], Values]:
    return lambda: {(uuid,): value for uuid, read in watch.latest.items() if (value := fact(read)) is not None}


def _throttled(watch: GpuWatch) -> Values:
    told = [(uuid, reading.throttled) for uuid, reading in watch.latest.items() if reading.throttled is not None]
    return {(uuid, reason): reason in reasons for uuid, reasons in told for reason in THROTTLES}


def _xids(watch: GpuWatch) -> Values:
    sums: Counter[Labels] = Counter()
    for (uuid, code), count in dict(watch.health.xids).items():  # a copy: the watch's thread adds to it
        sums[uuid, str(code) if code in XIDS else OTHER] += count
    return sums
