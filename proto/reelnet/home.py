"""Where components keep their state and their models."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from reelnet.errors import StartError


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """`$REELNET_HOME`, else `$XDG_STATE_HOME/reelnet`, else `~/.local/state/reelnet`."""
    if named := environ.get("REELNET_HOME"):
        return Path(named)
    base = environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "reelnet"


def models_home(environ: Mapping[str, str] = os.environ) -> Path:
    """`$REELNET_MODELS`, else `$XDG_DATA_HOME/reelnet/models`, else `~/.local/share/reelnet/models`."""
    if named := environ.get("REELNET_MODELS"):
        return Path(named)
    base = environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "reelnet" / "models"


def instance_dir(component: str, instance: str, home: Path | None = None) -> Path:
    """The private folder (mode 0700) of one instance of a component; made when it is missing."""
    path = (home or state_home()) / component / instance
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
    return path


@contextmanager
def locked_instance(component: str, instance: str, home: Path | None = None) -> Iterator[Path]:
    """The folder of an instance, for this process alone. Raises StartError while another one has it."""
    folder = instance_dir(component, instance, home)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartError(
                f"another {component} runs as {instance!r} ({folder}); stop it, or name this one with --name"
            ) from None
        yield folder


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write to the folder's disk. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def model_dir(model: str, base: Path, home: Path | None = None) -> Path:
    """The folder of a model: a path (absolute, or `./…` below `base`), else an id in the models' home."""
    if model.startswith(("/", "./", "../", "~")):
        return (base / Path(model).expanduser()).resolve()
    return (home or models_home()) / model
