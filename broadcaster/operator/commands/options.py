"""What the broadcaster's commands have in common: its settings, and the way to it while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from broadcaster.operator.control_client import BroadcasterClient
from reelnet.operating.options import CLIENT_GRACE_S
from reelnet.settings import load

if TYPE_CHECKING:
    from broadcaster.settings import BroadcasterSettings


def settings_of(config: Path | None, name: str | None) -> BroadcasterSettings:
    """The broadcaster's settings, as `serve` reads them. Raises ConfigError."""
    from broadcaster.settings import BroadcasterSettings

    return load(BroadcasterSettings, config, {"name": name})


def client_of(config: Path | None, name: str | None) -> BroadcasterClient:
    """The way to the running broadcaster of a file and name. Raises ConfigError."""
    settings = settings_of(config, name)
    return BroadcasterClient(settings.name, settings.home, settings.limits.control_s + CLIENT_GRACE_S, config=config)
