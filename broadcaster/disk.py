"""Whether the disks that a broadcaster writes to have room, looked at once a second at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from reelnet.home import free_bytes

LOOK_S = 1.0


class Disks:
    """The folders whose disks must keep `least_bytes` free."""

    def __init__(
        self,
        folders: tuple[Path, ...],
        least_bytes: int,
        *,
        free: Callable[[Path], int] = free_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders = folders
        self.least_bytes = least_bytes
        self._free = free
        self._clock = clock
        self._looked_at = float("-inf")
        self._why: str | None = None

    def why_full(self) -> str | None:
        """Which folder's disk has too little room, and what to do; None where all have enough."""
        if self._clock() - self._looked_at >= LOOK_S:
            self._looked_at = self._clock()
            self._why = next(filter(None, map(self._look, self._folders)), None)
        return self._why

    def _look(self, folder: Path) -> str | None:
        try:
            free = self._free(folder)
        except OSError as error:
            return f"the disk of {folder} cannot be read: {error.strerror}"
        if free >= self.least_bytes:
            return None
        room = f"{free / 2**20:.0f} MiB free, and {self.least_bytes / 2**20:.0f} are kept"
        return f"the disk of {folder} is full ({room}): free space, or move `home`"
