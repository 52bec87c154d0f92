"""What the words of the command line mean together; each error says which option, and what is expected."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

from pydantic import SecretStr

from benchmark.client import KEY_VARIABLE
from benchmark.lane import Kind
from benchmark.local_pool import Backend, PoolPlan
from benchmark.scenario import parse_pipeline, parse_size
from benchmark.targets import Aim
from reelnet.client import Address
from reelnet.errors import ConfigError, printable
from reelnet.home import models_home

DEFAULT_RUNS = 10
SPEED_UNIT_S = 0.01
"""Seconds per megapixel·step of a node of speed 1: jobs take so long that the chain's own time hardly counts."""
MAX_NODES = 16
KEY_FILE_BYTES = 4096
KEY = re.compile(r"[!-~]{1,1024}")
"""What can stand in a header: printable ASCII without spaces."""


@dataclass(frozen=True, slots=True)
class Named:
    """What the command line names as the target."""

    target: str
    url: str | None = None
    nodes: tuple[str, ...] = ()
    runners: tuple[Path, ...] = ()
    identity: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """What it says of a pool that is started."""

    backend: str | None = None
    nodes: int | None = None
    speeds: str | None = None
    fresh: bool = False

    @property
    def given(self) -> bool:
        return self != PoolOptions()


def runs_of(runs: int | None, duration_s: float | None) -> int:
    """How many runs. Raises ConfigError when a duration is given too."""
    if runs is not None and duration_s is not None:
        raise ConfigError("--runs and --duration: give one of them")
    return DEFAULT_RUNS if runs is None else runs


def aim(named: Named, pool: PoolOptions, concurrency: int, environ: Mapping[str, str] = os.environ) -> Aim:
    """Where to measure. Raises ConfigError for what does not go together."""
    kind = _kind(named)
    if pool.given and (named.url or named.nodes or named.runners):
        raise ConfigError("--local-pool, --backend, --nodes and --speeds are of a pool that is started: name no other")
    if named.identity and kind not in ("orchestrator", None):
        raise ConfigError(f"--identity: signs tickets for nodes; a {kind} takes none")
    if named.key_file and (named.nodes or named.runners or pool.given):
        raise ConfigError("--key-file: holds the key that a broadcaster asks for; name none without --url")
    if kind == "runner" and concurrency > 1:
        raise ConfigError("--concurrency: a runner takes one job at a time")
    for socket in named.runners:
        if not socket.is_socket():
            raise ConfigError(f"--runner: {socket} is no Unix socket")
    addresses = tuple(_address(text) for text in named.nodes)
    fresh = pool.fresh or pool.speeds is not None
    key = api_key(named.key_file, environ)
    return Aim(_plan(pool), kind, named.url, addresses, named.runners, fresh, named.identity, key)


def api_key(file: Path | None, environ: Mapping[str, str]) -> SecretStr | None:
    """The API key of a file, else of the environment. Raises ConfigError, which never has the key in it."""
    if file is None:
        where, text = KEY_VARIABLE, environ.get(KEY_VARIABLE, "")
    else:
        where, text = "--key-file", _read(file)
    if not (key := text.strip()) and file is None:
        return None
    if not KEY.fullmatch(key):
        raise ConfigError(f"{where}: expected one key, printable ASCII without spaces")
    return SecretStr(key)


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(KEY_FILE_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise ConfigError(f"--key-file: {file} cannot be read: {error.strerror}") from None


def placed(aim: Aim, home: Path) -> Aim:
    """The same, with the folder of its own pool."""
    return replace(aim, pool=replace(aim.pool, home=home))


def check_writable(file: Path | None) -> None:
    """Raises ConfigError when a report could not be written there."""
    if file is not None and not file.resolve().parent.is_dir():
        raise ConfigError(f"--json: {file.parent} is no folder; make it first")
    if file is not None and file.is_dir():
        raise ConfigError(f"--json: {file} is a folder; name a file in it")


def _kind(named: Named) -> Kind | None:
    """What is named, or implied: nodes by --node, runners by --runner."""
    given = {"broadcaster": bool(named.url), "orchestrator": bool(named.nodes), "runner": bool(named.runners)}
    implied = [kind for kind, there in given.items() if there]
    if len(implied) > 1:
        raise ConfigError("--url, --node and --runner: give one of them")
    if named.target == "auto":
        return cast(Kind, implied[0]) if implied else None
    if named.target not in get_args(Kind):
        raise ConfigError(
            f"--target: expected auto, {', '.join(get_args(Kind))}; found {printable(named.target, 40)!r}"
        )
    if named.target == "runner" and not named.runners:
        raise ConfigError("--target runner: needs --runner SOCKET; a node's runners have theirs in its state folder")
    # a broadcaster can be asked for its nodes: they are then measured themselves
    if implied and named.target != implied[0] and (named.target, implied[0]) != ("orchestrator", "broadcaster"):
        raise ConfigError(f"--target {named.target}: what was named is of another kind, {implied[0]}")
    return cast(Kind, named.target)


def _plan(pool: PoolOptions) -> PoolPlan:
    speeds = _speeds(pool.speeds) if pool.speeds is not None else ()
    if speeds and pool.backend not in (None, "synthetic"):
        raise ConfigError("--speeds: only the synthetic backend has a speed that can be set")
    if speeds and pool.nodes not in (None, len(speeds)):
        raise ConfigError(f"--speeds: names {len(speeds)} nodes, --nodes {pool.nodes}")
    backend = pool.backend or ("synthetic" if speeds else "tiny")
    if backend not in get_args(Backend):
        raise ConfigError(f"--backend: expected tiny or synthetic, found {printable(backend, 40)!r}")
    plan = PoolPlan(home=Path(), models=models_home(), nodes=pool.nodes or 1, backend=cast(Backend, backend))
    return replace(plan, speeds=speeds, unit_s=SPEED_UNIT_S) if speeds else plan


def _speeds(text: str) -> tuple[float, ...]:
    try:
        speeds = tuple(float(word) for word in text.split(","))
    except ValueError:
        speeds = ()
    if not 1 <= len(speeds) <= MAX_NODES or not all(0.001 <= speed <= 1000 for speed in speeds):
        raise ConfigError(f"--speeds: expected 1 to {MAX_NODES} numbers such as 1,1,2,4; found {printable(text, 60)!r}")
    return speeds


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise ConfigError(f"--node: {printable(str(error), 200)}") from None


__all__ = ["Named", "PoolOptions", "aim", "check_writable", "parse_pipeline", "parse_size", "placed", "runs_of"]
