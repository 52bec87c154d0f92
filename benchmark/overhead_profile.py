"""Where the time goes: the product's broadcaster, node and runner under a profiler and under load, by package."""

from __future__ import annotations

import asyncio
import json
import os
import pstats
import re
import signal
import sysconfig
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.local_pool import LocalPool
from benchmark.overhead_figures import KILO
from benchmark.overhead_load import drive
from benchmark.overhead_subjects import product, product_plan
from reelnet.operating.console import in_a_pipe

JOBS, CONCURRENCY = 600, 8
LARGEST, LARGEST_CHARS = 3, 60
"""Functions named for each package, and the width of their column."""
WRITTEN_S = 30.0
POLL_S = 0.02
OUTSIDE, THREADS = "outside Python", "other threads"
NOTE = (
    "outside Python: event loop, sockets, gRPC's core. Other threads are not profiled, only counted.\n"
    "A profiler makes calls of Python dearer than work in C: read shares, not sums."
)
PACKAGES = {
    "starlette, uvicorn": ("starlette", "uvicorn", "fastapi", "httptools", "h11", "anyio", "multipart"),
    "grpc, protobuf": ("grpc", "google", "grpc_health"),
    "aiohttp": ("aiohttp", "multidict", "yarl", "frozenlist", "propcache"),
    "cryptography": ("cryptography", "ed25519", "Ed25519PrivateKey", "Ed25519PublicKey"),
    "json, pydantic": ("json", "_json", "pydantic", "pydantic_core"),
    "sqlalchemy": ("sqlalchemy", "aiosqlite", "sqlite3", "greenlet"),
    "structlog": ("structlog", "logging"),
    "prometheus": ("prometheus_client",),
    "asyncio": ("asyncio", "uvloop", "threading", "concurrent", "contextlib", "queue"),
    "reelnet": ("broadcaster", "orchestrator", "runner", "reelnet"),
}
"""What is shown together. Everything else is `other`."""
_GROUP_OF = {package: group for group, packages in PACKAGES.items() for package in packages}
BUILT_IN = "~"
"""What a profile says instead of the file of a function that is written in C."""

Function = tuple[str, int, str]
Row = tuple[int, int, float, float, dict[Function, tuple[int, int, float, float]]]


@dataclass(frozen=True, slots=True)
class Profile:
    """Processes of one kind under load: CPU seconds by group and function, and those outside of all functions."""

    name: str
    jobs: int
    groups: Mapping[str, Mapping[str, float]]
    outside_s: float
    threads_s: float


async def take(folder: Path, jobs: int = JOBS) -> tuple[Profile, ...]:
    """The profiles of a pool of its own, results of 1 KB."""
    profiles = folder / "profiles"
    _make(profiles)
    async with LocalPool(product_plan(folder / "pool", KILO, profiles)) as pool:
        place = product(pool, KILO).place
        await drive(place, CONCURRENCY * 4, CONCURRENCY)
        stems = [path.with_suffix("") for path in profiles.glob("*.ready")]
        _send(stems, signal.SIGUSR1)
        await drive(place, jobs, CONCURRENCY)
        _send(stems, signal.SIGUSR2)
        await _written([stem.with_suffix(".json") for stem in stems])
    found = [_read(stem) for stem in stems]
    return tuple(_merged(found, name, jobs + CONCURRENCY) for name in sorted({one.name for one in found}))


def native_package(name: str) -> str:
    """The package that the name of a function in C tells, such as `<built-in method _json.encode>`; else empty."""
    words = re.findall(r"\w+", name)
    return next((word for word in words if word in _GROUP_OF), "")


def package_of(file: str) -> str:
    """The package or module that a source file belongs to, by where packages are kept."""
    kept = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *_ours(), sysconfig.get_path("stdlib"))
    path = Path(file)
    for folder in map(Path, kept):
        if path.is_relative_to(folder):
            return path.relative_to(folder).parts[0].removesuffix(".py")
    return path.name.removesuffix(".py")


def by_group(rows: Mapping[Function, Row]) -> dict[str, dict[str, float]]:
    """Own time, seconds, by group and function. What a function in C took is named after its caller, and counted
    as its own package's where its name tells it, else as the caller's.
    """
    groups: dict[str, dict[str, float]] = {}

    def add(package: str, name: str, seconds: float) -> None:
        functions = groups.setdefault(_GROUP_OF.get(package, "other"), {})
        functions[name] = functions.get(name, 0.0) + seconds

    for function, (_, _, own_s, _, callers) in rows.items():
        if function[0] != BUILT_IN:
            add(package_of(function[0]), _name(function), own_s)
            continue
        for caller, (_, _, share_s, _) in callers.items():
            add(native_package(function[2]) or package_of(caller[0]), _name(caller), share_s)
    return groups


def show(profiles: Sequence[Profile], console: Console) -> None:
    """Prints one table for each kind of process."""
    for profile in profiles:
        console.print(table(profile, whole=in_a_pipe(console)))
    console.print(Text(NOTE, style="dim") if profiles else "")


def table(profile: Profile, *, whole: bool = False) -> Table:
    """µs of CPU for a job, by package; `whole`: however many columns the names take."""
    total = sum(sum(functions.values()) for functions in profile.groups.values())
    total += profile.outside_s + profile.threads_s
    made = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    made.add_column(profile.name, no_wrap=True, min_width=18)
    made.add_column("µs/job", justify="right", min_width=6)
    made.add_column("%", justify="right", min_width=4)
    made.add_column("largest, µs/job", no_wrap=True, max_width=None if whole else LARGEST_CHARS)
    rows = [(name, sum(functions.values()), functions) for name, functions in profile.groups.items()]
    rows += [(OUTSIDE, profile.outside_s, {}), (THREADS, profile.threads_s, {})]
    for name, seconds, functions in sorted(rows, key=lambda row: -row[1]):
        made.add_row(
            name, _us(seconds, profile), f"{seconds / total:.0%}" if total else "", _largest(functions, profile)
        )
    return made


def _us(seconds: float, profile: Profile) -> str:
    return f"{seconds / profile.jobs * 1e6:.0f}"


def _largest(functions: Mapping[str, float], profile: Profile) -> str:
    most = sorted(functions.items(), key=lambda item: -item[1])[:LARGEST]
    return ", ".join(f"{name} {_us(seconds, profile)}" for name, seconds in most)


def _name(function: Function) -> str:
    file, _, name = function
    return name if file == BUILT_IN else f"{Path(file).stem}.{name}"


def _ours() -> tuple[str, str]:
    root = Path(__file__).resolve().parent.parent
    return str(root / "proto"), str(root)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True)


def _send(stems: Iterable[Path], number: signal.Signals) -> None:
    for stem in stems:
        os.kill(int(stem.name.rpartition("-")[2]), number)


async def _written(files: Iterable[Path]) -> None:
    there: list[Callable[[], bool]] = [file.exists for file in files]
    async with asyncio.timeout(WRITTEN_S):
        while not all(is_there() for is_there in there):  # noqa: ASYNC110  (other processes write them)
            await asyncio.sleep(POLL_S)


def _read(stem: Path) -> Profile:
    clocks = json.loads(stem.with_suffix(".json").read_text("utf-8"))
    rows = cast(dict[Function, Row], pstats.Stats(str(stem.with_suffix(".pstats"))).stats)  # type: ignore[attr-defined]
    groups = by_group(rows)
    inside_s = sum(sum(functions.values()) for functions in groups.values())
    outside_s = max(0.0, clocks["thread_s"] - inside_s)
    return Profile(stem.name.rpartition("-")[0], 0, groups, outside_s, clocks["process_s"] - clocks["thread_s"])


def _merged(profiles: Iterable[Profile], name: str, jobs: int) -> Profile:
    """One profile of the processes of a name, which did so many jobs together."""
    some = [profile for profile in profiles if profile.name == name]
    groups: dict[str, dict[str, float]] = {}
    for profile in some:
        for group, functions in profile.groups.items():
            sums = groups.setdefault(group, {})
            for function, seconds in functions.items():
                sums[function] = sums.get(function, 0.0) + seconds
    return Profile(name, jobs, groups, sum(p.outside_s for p in some), sum(p.threads_s for p in some))
