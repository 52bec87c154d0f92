"""What the operator's commands ask a running node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.status import NodeStatus, from_document
from reelnet.operating.control_client import ControlClient, Instance

COMPONENT = "orchestrator"
NOUN = "node"


class NodeClient(ControlClient):
    """Asks one node. Every method raises ControlError."""

    def __init__(
        self, name: str, home: Path | None = None, timeout_s: float = 35, *, config: Path | None = None
    ) -> None:
        super().__init__(Instance(COMPONENT, NOUN, name, home, config), timeout_s)

    def status(self) -> NodeStatus:
        """The node as it is now."""
        return self._node(self.ask("GET", "/status"))

    def drain(self) -> NodeStatus:
        """Has the node take no new job."""
        return self._node(self.ask("POST", "/drain"))

    def resume(self) -> NodeStatus:
        """Has the node take jobs again."""
        return self._node(self.ask("POST", "/resume"))

    def logs(self, slot: str, lines: int) -> str:
        """The last lines of a slot's runner, as the runner wrote them."""
        return self.log_text(slot=slot, lines=lines)

    def _node(self, answer: dict[str, Any]) -> NodeStatus:
        try:
            return from_document(answer)
        except ValueError as error:
            raise self.unreadable(error) from None
