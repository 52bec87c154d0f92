"""How much memory this process may use: the host's, or less where a control group says so."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

UNLIMITED_BYTES = 2**60
"""Control groups of version 1 write a number near 2⁶³ where there is no limit."""


def host_memory_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process may use; None on a system that tells nothing."""
    known = [size for size in (_installed(root), *_limits(root)) if size is not None and size < UNLIMITED_BYTES]
    return min(known, default=None)


def _installed(root: Path) -> int | None:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _limits(root: Path) -> list[int | None]:
    """The limits of this process's control group and of each that it lies in, both versions of control groups.

    Formats: cgroups(7), /proc/[pid]/cgroup; the kernel's admin-guide, cgroup-v2, memory.max.
    """
    limits: list[int | None] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        file = "memory.limit_in_bytes" if controllers else "memory.max"
        path = PurePosixPath(group.lstrip("/"))
        limits += [_number(_text(mount / place / file)) for place in (path, *path.parents)]
    return limits


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
