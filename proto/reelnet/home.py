"""Where components keep their state and their models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


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


def model_dir(model: str, base: Path, home: Path | None = None) -> Path:
    """The folder of a model: a path (absolute, or `./…` below `base`), else an id in the models' home."""
    if model.startswith(("/", "./", "../", "~")):
        return (base / Path(model).expanduser()).resolve()
    return (home or models_home()) / model
