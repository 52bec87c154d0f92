"""What the operator's commands ask a running broadcaster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from broadcaster.operator.status import BroadcasterStatus, from_document
from reelnet.operating.control_client import ControlClient, Instance

COMPONENT = NOUN = "broadcaster"


class BroadcasterClient(ControlClient):
    """Asks one broadcaster. Every method raises ControlError."""

    def __init__(
        self, name: str, home: Path | None = None, timeout_s: float = 35, *, config: Path | None = None
    ) -> None:
        super().__init__(Instance(COMPONENT, NOUN, name, home, config), timeout_s)

    def status(self) -> BroadcasterStatus:
        """The broadcaster as it is now."""
        return self._status("GET", "/status")

    def drain(self) -> BroadcasterStatus:
        """Has it take no new job."""
        return self._status("POST", "/drain")

    def resume(self) -> BroadcasterStatus:
        """Has it take jobs again."""
        return self._status("POST", "/resume")

    def reload_keys(self) -> tuple[str, ...]:
        """Has it read its file of keys again; returns what changed. Raises ConfigError for a bad file."""
        return tuple(str(line) for line in self.ask("POST", "/keys").get("changed", ()))

    def logs(self, name: str, lines: int) -> str:
        """The newest lines of its log. It has one; `name` is not looked at."""
        return self.log_text(lines=lines)

    def _status(self, method: str, path: str) -> BroadcasterStatus:
        answer: dict[str, Any] = self.ask(method, path)
        try:
            return from_document(answer)
        except ValueError as error:
            raise self.unreadable(error) from None
