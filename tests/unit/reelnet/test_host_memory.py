"""How much memory a process may use, and how much of it is free."""

from __future__ import annotations

from pathlib import Path

import pytest

from reelnet.host_memory import free_memory_bytes, host_memory_bytes


def host(root: Path, files: dict[str, str]) -> Path:
    """A host's files as far as memory goes."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return root


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1024 * 1000),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, 1024 * 1000),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "5000\n"}, 5000),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "6000\n"}, 6000),
        (
            {"proc/self/cgroup": "5:cpu:/x\n4:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "7000\n"},
            7000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "9223372036854771712\n",
            },
            1024 * 1000,
        ),
        # In a container the group's path is the host's, and the limit lies at the mount's root.
        ({"proc/self/cgroup": "0::/docker/abc\n", "sys/fs/cgroup/memory.max": "8000\n"}, 8000),
    ],
)
def test_the_smallest_limit_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """The host's memory, or the limit of a control group that the process lies in."""
    assert (
        host_memory_bytes(host(tmp_path, {"proc/meminfo": "MemTotal:  1000 kB\nMemFree: 1 kB\n", **files})) == expected
    )


def test_a_system_that_tells_nothing_is_unknown(tmp_path: Path) -> None:
    """None is not zero: nobody may refuse a model for it."""
    assert host_memory_bytes(tmp_path) is None


MEMINFO = {"proc/meminfo": "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  600 kB\n"}
GROUP = "sys/fs/cgroup/a"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1024 * 600),
        ({"proc/self/cgroup": "0::/a\n", f"{GROUP}/memory.max": "9000\n", f"{GROUP}/memory.current": "4000\n"}, 5000),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                f"{GROUP}/memory.max": "9000\n",
                f"{GROUP}/memory.current": "8000\n",
                f"{GROUP}/memory.stat": "anon 1\nactive_file 9\ninactive_file 3000\n",
            },
            4000,
        ),
        ({"proc/self/cgroup": "0::/a\n", f"{GROUP}/memory.max": "10\n", f"{GROUP}/memory.current": "4000\n"}, 0),
        ({"proc/self/cgroup": "0::/a\n", f"{GROUP}/memory.max": "max\n", f"{GROUP}/memory.current": "1\n"}, 1024 * 600),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "7000\n",
                "sys/fs/cgroup/memory/x/memory.usage_in_bytes": "6500\n",
                "sys/fs/cgroup/memory/x/memory.stat": "inactive_file 9\ntotal_inactive_file 100\n",
            },
            600,
        ),
    ],
)
def test_free_is_what_the_tightest_limit_leaves(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    """The host's available memory, or less in a control group; pages of files that nobody uses count as free."""
    assert free_memory_bytes(host(tmp_path, MEMINFO | files)) == expected


def test_free_memory_is_unknown_where_nothing_is_told(tmp_path: Path) -> None:
    """As above: no job may be refused for it."""
    assert free_memory_bytes(tmp_path) is None
