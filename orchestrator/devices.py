"""The devices that a node works with."""

from __future__ import annotations

from pathlib import Path

NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")


def inventory(configured: tuple[str, ...], gpus: Path = NVIDIA_GPUS) -> tuple[str, ...]:
    """Device names, each one place for work. `auto` is every NVIDIA GPU of the host, or one CPU where there is none.

    A name that stands n times is n places: `[cpu, cpu]` lets two jobs run at once on the CPU.
    """
    if configured != ("auto",):
        return tuple(f"{name}/{i}" if name == "cpu" else name for i, name in enumerate(configured))
    found = len(list(gpus.iterdir())) if gpus.is_dir() else 0
    return tuple(f"cuda:{i}" for i in range(found)) or ("cpu/0",)
