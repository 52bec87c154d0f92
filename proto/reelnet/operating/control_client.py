"""What the operator's commands ask a running component, over its control socket."""

from __future__ import annotations

import http.client
import os
import shlex
import socket
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pydantic_core import from_json

from reelnet.errors import ConfigError, StartError
from reelnet.home import state_home
from reelnet.operating.control_socket import SOCKET_NAME, connect

ANSWER_BYTES = 16 * 2**20
NEIGHBOUR_S = 1
"""Seconds that another instance gets to show that it runs."""


class ControlError(StartError):
    """A component could not be asked, or did not do what was asked; the text says what the operator can do."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a component: `noun` is the word for it; `home` and `config` as its operator has named them."""

    component: str
    noun: str
    name: str = "default"
    home: Path | None = None
    config: Path | None = None

    @property
    def folder(self) -> Path:
        """Its state folder, which may not be there."""
        return (self.home or state_home()) / self.component / self.name

    def command(self, words: str) -> str:
        """A command line for this instance, such as `orchestrator serve --config my.yaml`, to paste in a shell."""
        of_name = f" --name {shlex.quote(self.name)}" if self.name != "default" or not self.config else ""
        of_file = f" --config {shlex.quote(str(self.config))}" if self.config else ""
        return f"{self.component} {words}{of_file}{of_name}"


class ControlClient:
    """Asks one instance. `timeout_s` bounds each step of a request. Every method raises ControlError."""

    def __init__(self, instance: Instance, timeout_s: float = 35) -> None:
        self.instance = instance
        self._timeout_s = timeout_s

    def reload(self) -> tuple[str, ...]:
        """Has it read its configuration again; returns what changed. Raises ConfigError for a bad file."""
        answer = self.ask("POST", "/reload")
        return tuple(str(line) for line in answer.get("changed", ()))

    def log_text(self, **query: str | int) -> str:
        """The last lines of a log, as they were written."""
        return str(self.ask("GET", "/logs?" + urlencode(query)).get("text", ""))

    def ask(self, method: str, path: str) -> dict[str, Any]:
        """The document with which a request is answered. Raises ConfigError where the file is at fault."""
        noun, name = self.instance.noun, self.instance.name
        try:
            status, body = self._exchange(method, path)
            answer = from_json(body)
            if not isinstance(answer, dict):
                raise ValueError("no object")
        except (TimeoutError, http.client.HTTPException, ConnectionError, ValueError) as error:
            if isinstance(error, ConnectionRefusedError):
                raise self._nobody() from None
            reason = str(error) or type(error).__name__
            raise ControlError(f"{noun} {name!r} gives no sensible answer ({reason}); look into its log") from None
        except (FileNotFoundError, NotADirectoryError):
            raise self._nobody() from None
        except PermissionError:
            raise self._forbidden() from None
        except OSError as error:
            raise ControlError(f"{self.instance.folder / SOCKET_NAME}: {error.strerror or error}") from None
        if status != 200:
            raise self._refusal(status, answer)
        return answer

    def unreadable(self, error: ValueError) -> ControlError:
        """What to say of an answer that has not the form of one."""
        return ControlError(f"the {self.instance.noun}'s answer cannot be read: {error}; does it run another version?")

    def _exchange(self, method: str, path: str) -> tuple[int, bytes]:
        with closing(_UnixConnection(self.instance.folder, self._timeout_s)) as connection:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read(ANSWER_BYTES + 1)
        if len(body) > ANSWER_BYTES:
            raise ValueError(f"more than {ANSWER_BYTES} bytes")
        return answer.status, body

    def _nobody(self) -> ControlError:
        place = self.instance
        others = running(place)
        hint = f"; running here: {', '.join(others)} (choose with --name)" if others else ""
        return ControlError(
            f"no {place.noun} named {place.name!r} runs with the state folder {place.folder}{hint}; "
            f"start it with: {place.command('serve')}"
        )

    def _forbidden(self) -> ControlError:
        folder = self.instance.folder
        try:
            owner = f"user {folder.parent.stat().st_uid}"
        except OSError:
            owner = "its user"
        return ControlError(
            f"{folder / SOCKET_NAME}: permission denied; run this command as the user that runs the "
            f"{self.instance.noun} ({owner}; you are user {os.getuid()}), for instance with sudo -u"
        )

    def _refusal(self, status: int, answer: dict[str, Any]) -> ConfigError | ControlError:
        """What an answer other than 200 means."""
        error = answer.get("error")
        detail = error if isinstance(error, dict) else {}
        message = str(detail.get("message") or f"the {self.instance.noun} answered HTTP {status}")
        return ConfigError(message) if detail.get("code") == "config" else ControlError(message)


def running(instance: Instance) -> list[str]:
    """The names of the instances beside this one that answer, itself among them."""
    instances = instance.folder.parent
    folders = sorted(path.parent for path in instances.glob(f"*/{SOCKET_NAME}"))
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
        super().__init__("control", timeout=timeout_s)
        self._folder = folder
        self._timeout_s = timeout_s
        self.sock: socket.socket

    def connect(self) -> None:
        self.sock = connect(self._folder, self._timeout_s)
