"""How much memory this process may use, and how much of it is free: the host's, or less where a control group says so.

Formats: proc(5); cgroups(7), /proc/[pid]/cgroup; the kernel's admin-guide, cgroup-v1/memory and cgroup-v2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED_BYTES = 2**60
"""Control groups of version 1 write a number near 2⁶³ where there is no limit."""


@dataclass(frozen=True, slots=True)
class _Group:
    """One control group's folder, and what its files are called."""

    folder: Path
    limit: str
    usage: str
    cache: str

    @property
    def limit_bytes(self) -> int | None:
        limit = _number(_text(self.folder / self.limit))
        return limit if limit is not None and limit < UNLIMITED_BYTES else None

    @property
    def free_bytes(self) -> int | None:
        """What the limit leaves. Files' pages that nobody uses are given up before the limit is felt: they are free."""
        limit, usage = self.limit_bytes, _number(_text(self.folder / self.usage))
        if limit is None or usage is None:
            return None
        return max(0, limit - usage + (_field(self.folder / "memory.stat", self.cache) or 0))


def host_memory_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process may use; None on a system that tells nothing."""
    known = [_kibibytes(root, "MemTotal:"), *(group.limit_bytes for group in _groups(root))]
    return min((size for size in known if size is not None), default=None)


def free_memory_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that this process may take beside what it has; None on a system that tells nothing."""
    known = [_kibibytes(root, "MemAvailable:"), *(group.free_bytes for group in _groups(root))]
    return min((size for size in known if size is not None), default=None)


def _groups(root: Path) -> Iterator[_Group]:
    """This process's control group and each that it lies in, of both versions of control groups."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("memory" if controllers else "")
        path = PurePosixPath(group.lstrip("/"))
        for place in (path, *path.parents):
            if controllers:
                yield _Group(mount / place, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            else:
                yield _Group(mount / place, "memory.max", "memory.current", "inactive_file")


def _kibibytes(root: Path, name: str) -> int | None:
    size = _field(root / "proc/meminfo", name)
    return None if size is None else size * 1024


def _field(path: Path, name: str) -> int | None:
    """The number behind a name at a line's begin."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return _number(words[1])
    return None


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:
        return ""
