"""What a device is, and how fast it multiplies matrices: what a model's speed can be held against."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from runner.models.libraries import library_versions
from runner.models.loading import choose_device

_SIDES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024)}
_NUMBERS = {"cuda": ("float16", "bfloat16"), "cpu": ("float32",)}
_WARMUP, _ROUNDS = 3, 5
_ROUND_S = 0.1
_DRIVER = Path("/sys/module/nvidia/version")


@dataclass(frozen=True, slots=True)
class Card:
    """A device. `rates`: operations a second by number format, a multiply-add being two; `memory_bytes` 0 on a CPU."""

    name: str
    kind: str
    driver: str
    memory_bytes: int
    rates: dict[str, float]
    versions: dict[str, str] = field(default_factory=dict)


def measure(device_name: str) -> Card:
    """The device of that name, and its rates: seconds of work. Raises SetupError when there is none."""
    device = choose_device(device_name)
    rates = {name: matrix_rate(device, getattr(torch, name), _SIDES[device.type]) for name in _NUMBERS[device.type]}
    versions = {"python": platform.python_version(), **library_versions()}
    if device.type != "cuda":
        return Card(platform.processor() or platform.machine(), device.type, "", 0, rates, versions)
    facts = torch.cuda.get_device_properties(device)
    versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return Card(facts.name, device.type, _driver(), facts.total_memory, rates, versions)


def matrix_rate(device: torch.device, dtype: torch.dtype, sides: tuple[int, ...]) -> float:
    """Operations a second of products of two square matrices of random numbers: the best side's median."""
    return max(_rate(device, dtype, side) for side in sides)


def _rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)

    def seconds(times: int) -> float:
        _settle(device)
        began = time.perf_counter()
        for _ in range(times):
            torch.mm(left, right, out=product)
        _settle(device)
        return time.perf_counter() - began

    return 2 * side**3 / _median_s(seconds)


def _median_s(seconds: Callable[[int], float]) -> float:
    """Seconds of one product, in rounds so long that a start costs nothing."""
    times = max(1, round(_ROUND_S * _WARMUP / seconds(_WARMUP)))
    return statistics.median(seconds(times) / times for _ in range(_ROUNDS))


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _driver() -> str:
    """The driver's version; empty where neither the kernel nor nvidia-smi tells."""
    with suppress(OSError):
        return _DRIVER.read_text("utf-8").strip()
    with suppress(OSError, subprocess.SubprocessError):
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=10).stdout  # noqa: S603
        return told.strip().partition("\n")[0]
    return ""
