"""What the operator's commands ask a running node, over its control socket."""

from __future__ import annotations

import http.client
import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pydantic_core import from_json

from orchestrator.control_socket import SOCKET_NAME, connect
from orchestrator.status import NodeStatus, from_document
from reelnet.errors import ConfigError, StartError
from reelnet.home import state_home

ANSWER_BYTES = 16 * 2**20
COMPONENT = "orchestrator"
NEIGHBOUR_S = 1
"""Seconds that another node gets to show that it runs."""


class ControlError(StartError):
    """A node could not be asked, or did not do what was asked; the text says what the operator can do."""


class ControlClient:
    """Asks one node. `timeout_s` bounds each step of a request. Every method raises ControlError."""

    def __init__(self, name: str, home: Path | None = None, timeout_s: float = 35) -> None:
        self._name = name
        self._home = home or state_home()
        self._instances = self._home / COMPONENT
        self._timeout_s = timeout_s

    def status(self) -> NodeStatus:
        """The node as it is now."""
        return self._node(self._ask("GET", "/status"))

    def drain(self) -> NodeStatus:
        """Has the node take no new job."""
        return self._node(self._ask("POST", "/drain"))

    def resume(self) -> NodeStatus:
        """Has the node take jobs again."""
        return self._node(self._ask("POST", "/resume"))

    def reload(self) -> tuple[str, ...]:
        """Has the node read its configuration again; returns what changed. Raises ConfigError for a bad file."""
        answer = self._ask("POST", "/reload")
        return tuple(str(line) for line in answer.get("changed", ()))

    def logs(self, slot: str, lines: int) -> str:
        """The last lines of a slot's runner, as the runner wrote them."""
        return str(self._ask("GET", "/logs?" + urlencode({"slot": slot, "lines": lines})).get("text", ""))

    def _node(self, answer: dict[str, Any]) -> NodeStatus:
        try:
            return from_document(answer)
        except ValueError as error:
            raise ControlError(f"the node's answer cannot be read: {error}; does it run another version?") from None

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        try:
            status, body = self._exchange(method, path)
            answer = from_json(body)
            if not isinstance(answer, dict):
                raise ValueError("no object")
        except (TimeoutError, http.client.HTTPException, ConnectionError, ValueError) as error:
            if isinstance(error, ConnectionRefusedError):
                raise self._nobody() from None
            reason = str(error) or type(error).__name__
            raise ControlError(f"node {self._name!r} gives no sensible answer ({reason}); look into its log") from None
        except (FileNotFoundError, NotADirectoryError):
            raise self._nobody() from None
        except PermissionError:
            raise self._forbidden() from None
        except OSError as error:
            raise ControlError(f"{self._folder / SOCKET_NAME}: {error.strerror or error}") from None
        if status != 200:
            raise _refusal(status, answer)
        return answer

    def _exchange(self, method: str, path: str) -> tuple[int, bytes]:
        with closing(_UnixConnection(self._folder, self._timeout_s)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read(ANSWER_BYTES + 1)
        if len(body) > ANSWER_BYTES:
            raise ValueError(f"more than {ANSWER_BYTES} bytes")
        return answer.status, body

    @property
    def _folder(self) -> Path:
        return self._instances / self._name

    def _nobody(self) -> ControlError:
        others = running(self._home)
        hint = f"; running here: {', '.join(others)} (choose with --name)" if others else ""
        return ControlError(
            f"no node named {self._name!r} runs with the state folder {self._folder}{hint}; "
            f"start it with: orchestrator serve --name {self._name}"
        )

    def _forbidden(self) -> ControlError:
        try:
            owner = f"user {self._instances.stat().st_uid}"
        except OSError:
            owner = "its user"
        return ControlError(
            f"{self._folder / SOCKET_NAME}: permission denied; run this command as the user that runs the node "
            f"({owner}; you are user {os.getuid()}), for instance with sudo -u"
        )


def running(home: Path) -> list[str]:
    """The names of the nodes with this state folder that answer."""
    folders = sorted(path.parent for path in (home / COMPONENT).glob(f"*/{SOCKET_NAME}"))
    return [folder.name for folder in folders if _answers(folder)]


def _answers(folder: Path) -> bool:
    with closing(_UnixConnection(folder, NEIGHBOUR_S)) as connection:
        try:
            connection.request("GET", "/status")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the control socket of a folder."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        super().__init__("node", timeout=timeout_s)
        self._folder = folder
        self._timeout_s = timeout_s
        self.sock: socket.socket

    def connect(self) -> None:
        self.sock = connect(self._folder, self._timeout_s)


def _refusal(status: int, answer: dict[str, Any]) -> ConfigError | ControlError:
    """What an answer other than 200 means."""
    error = answer.get("error")
    detail = error if isinstance(error, dict) else {}
    message = str(detail.get("message") or f"the node answered HTTP {status}")
    return ConfigError(message) if detail.get("code") == "config" else ControlError(message)
