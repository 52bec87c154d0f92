"""The control socket and its client, over a true Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import stat
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control import Controlled, control_routes
from orchestrator.control_client import NodeClient
from orchestrator.status import NodeStatus, from_document, to_document
from reelnet.errors import ConfigError, StartError
from reelnet.operating.control_client import ControlError
from reelnet.operating.control_server import serve_control
from reelnet.operating.control_socket import SOCKET_NAME, connect, listening
from tests.fakes.controlled import STATUS, ScriptedNode
from tests.fakes.controlled import served as serving


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The state folder of the node named `a`."""
    path = tmp_path / "orchestrator" / "a"
    path.mkdir(parents=True)
    return path


def client(tmp_path: Path, name: str = "a") -> NodeClient:
    return NodeClient(name, tmp_path, timeout_s=5)


def raw(folder: Path, method: str, path: str, body: bytes = b"") -> tuple[int, dict[str, Any]]:
    """A request that the client does not send."""
    connection = http.client.HTTPConnection("node")
    connection.sock = connect(folder, 5)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_the_fake_is_what_the_node_has_to_be() -> None:
    """The protocol is one for both."""
    controlled: Controlled = ScriptedNode()
    assert controlled.status() == STATUS


def test_a_status_comes_over_whole(tmp_path: Path, folder: Path) -> None:
    """What the node says is what the operator's command gets, field by field."""
    with serving(ScriptedNode(), folder):
        got = client(tmp_path).status()
    assert asdict(got) == asdict(STATUS)


def test_a_newer_nodes_status_is_read() -> None:
    """A field that is not known is left out, one that is absent has its default."""
    document = {**to_document(STATUS), "colour": "red"}
    document["slots"] = [{"slot": "s", "model": "m", "device": "cpu/0", "state": "ready", "mood": "good"}]
    del document["models"]
    got = from_document(document)
    assert (got.slots[0].slot, got.slots[0].restarts, got.models) == ("s", 0, ())


@pytest.mark.parametrize("document", [None, [], {}, {"node_id": 1}, {**to_document(STATUS), "slots": "many"}])
def test_what_is_no_status_is_refused(document: object) -> None:
    """Also JSON has to have the form."""
    with pytest.raises(ValueError, match="not a node's status"):
        from_document(document)


def test_drain_and_resume(tmp_path: Path, folder: Path) -> None:
    """Each answers with what the node is from then on, and may be repeated."""
    with serving(ScriptedNode(polls_to_idle=99), folder):
        ask = client(tmp_path)
        assert [ask.drain().draining, ask.drain().draining, ask.status().draining] == [True] * 3
        assert [ask.resume().draining, ask.resume().draining] == [False] * 2


def test_reload_says_what_changed(tmp_path: Path, folder: Path) -> None:
    """A line each."""
    with serving(ScriptedNode(changed=("one", "two")), folder) as node:
        assert client(tmp_path).reload() == ("one", "two")
    assert node.reloads == 1


def test_a_bad_file_is_a_configuration_error(tmp_path: Path, folder: Path) -> None:
    """All its lines reach the operator, as the error that it is."""
    with (
        serving(ScriptedNode(reload_error=ConfigError("x.yaml: one\nx.yaml: two")), folder),
        pytest.raises(ConfigError, match=r"x\.yaml: one\nx\.yaml: two"),
    ):
        client(tmp_path).reload()


def test_a_fault_of_the_node_is_no_traceback(tmp_path: Path, folder: Path) -> None:
    """Its text stays in the node's log; the next request is served."""
    with serving(ScriptedNode(reload_error=RuntimeError("secret")), folder):
        with pytest.raises(ControlError, match=r"^a fault of the program's own; its log has the details$"):
            client(tmp_path).reload()
        assert client(tmp_path).status() == STATUS


def test_a_request_is_bounded_in_time(tmp_path: Path, folder: Path) -> None:
    """The node gives up, and says so."""
    with (
        serving(ScriptedNode(reload_s=60), folder, limit_s=0.05),
        pytest.raises(ControlError, match=r"within 0\.05 s"),
    ):
        client(tmp_path).reload()


def test_logs(tmp_path: Path, folder: Path) -> None:
    """The last lines of one slot."""
    with serving(ScriptedNode(text="one\ntwo\nthree\n"), folder) as node:
        assert client(tmp_path).logs("1-acme-svd-0", 2) == "two\nthree\n"
    assert node.asked == [("1-acme-svd-0", 2)]


def test_a_slot_that_is_not_there_is_named(tmp_path: Path, folder: Path) -> None:
    """With the nearest one that is; the node is not asked."""
    said = r"no slot '1-acme-svd'; did you mean '1-acme-svd-0'\?"
    with serving(ScriptedNode(), folder) as node, pytest.raises(ControlError, match=said):
        client(tmp_path).logs("1-acme-svd", 2)
    assert node.asked == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "request"),
        ("GET", "/drain", 405, "request"),
        ("POST", "/status", 405, "request"),
        ("GET", "/logs", 404, "slot"),
        ("GET", "/logs?slot=1-acme-svd-0&lines=0", 400, "lines"),
        ("GET", "/logs?slot=1-acme-svd-0&lines=99999999999999999999", 400, "lines"),
        ("GET", "/logs?slot=1-acme-svd-0&lines=-1", 400, "lines"),
        ("GET", "/logs?slot=1-acme-svd-0&lines=²", 400, "lines"),
    ],
)
def test_a_request_that_is_none(folder: Path, method: str, path: str, status: int, code: str) -> None:
    """Every answer is JSON with a code."""
    with serving(ScriptedNode(), folder):
        answered, body = raw(folder, method, path.replace("²", "%C2%B2"))
    assert (answered, body["error"]["code"]) == (status, code)


def test_a_method_that_is_none_is_told_which_there_are(folder: Path) -> None:
    """Allow names them; HEAD is answered as GET is, without the body."""
    with serving(ScriptedNode(), folder):
        for method, path, status, allowed in (("POST", "/status", 405, "GET,HEAD"), ("HEAD", "/status", 200, None)):
            connection = http.client.HTTPConnection("node")
            connection.sock = connect(folder, 5)
            connection.request(method, path)
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("allow")) == (status, allowed)
            assert bool(answer.read()) is (method != "HEAD")
            connection.close()


def test_the_socket_is_for_its_owner_alone_from_the_first_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mode is right when the name appears, and the process's own mask is as before."""
    modes, before = [], os.umask(0)
    bind = socket.socket.bind

    def spied(sock: socket.socket, address: Any) -> None:
        bind(sock, address)
        modes.append(stat.S_IMODE((folder / SOCKET_NAME).stat().st_mode))

    monkeypatch.setattr(socket.socket, "bind", spied)
    try:
        with listening(folder):
            assert modes == [0o600]
        assert os.umask(before) == 0
    finally:
        os.umask(before)
    assert not (folder / SOCKET_NAME).exists()


def test_what_a_killed_node_left_is_replaced(tmp_path: Path, folder: Path) -> None:
    """A socket that nobody listens on is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / SOCKET_NAME))
    with pytest.raises(ControlError, match="no node named 'a' runs"):
        client(tmp_path).status()
    with serving(ScriptedNode(), folder):
        assert client(tmp_path).status() == STATUS


def test_a_live_socket_is_never_replaced(tmp_path: Path, folder: Path) -> None:
    """The second node does not start, and the first one answers on."""
    with serving(ScriptedNode(), folder):
        with pytest.raises(StartError, match="another one listens there"), listening(folder):
            pass
        assert client(tmp_path).status() == STATUS


def test_a_file_in_the_sockets_place_is_left_alone(folder: Path) -> None:
    """It may be somebody's."""
    (folder / SOCKET_NAME).write_text("mine")
    with pytest.raises(StartError, match="no socket; move it away"), listening(folder):
        pass
    assert (folder / SOCKET_NAME).read_text() == "mine"


def test_a_successors_socket_is_not_removed(folder: Path) -> None:
    """At its end a node removes what it made, nothing else."""
    path = folder / SOCKET_NAME
    with listening(folder):
        path.rename(folder / "moved")
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    """Longer than a socket's address can be."""
    home = tmp_path / ("d" * 120) / ("e" * 120)
    with serving(ScriptedNode(), home / "orchestrator" / "a"):
        assert NodeClient("a", home, 5).status() == STATUS


def test_no_node_runs(tmp_path: Path, folder: Path) -> None:
    """The error says how to start it, and which ones do run."""
    with pytest.raises(ControlError, match=r"no node named 'b' runs .*; start it with: orchestrator serve --name b$"):
        client(tmp_path, "b").status()
    with serving(ScriptedNode(), folder), pytest.raises(ControlError, match=r"running here: a \(choose with --name\)"):
        client(tmp_path, "b").status()


def test_another_user_is_told_whom_to_become(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback, and not that the node does not run."""

    def forbidden(folder: Path, timeout_s: float) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("reelnet.operating.control_client.connect", forbidden)
    said = f"permission denied; run this command as the user that runs the node .user {os.getuid()}; .*sudo -u"
    with pytest.raises(ControlError, match=said):
        client(tmp_path).status()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n" + b"1" * 20_000_000,
    ],
)
def test_a_node_that_answers_nonsense(tmp_path: Path, folder: Path, answer: bytes) -> None:
    """One error that says where to look, whatever came back."""

    def nonsense() -> None:
        connection, _ = sock.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(answer)

    with listening(folder) as sock:
        node = threading.Thread(target=nonsense)
        node.start()
        with pytest.raises(ControlError, match=r"sensible answer|cannot be read"):
            client(tmp_path).status()
        node.join(5)
        assert not node.is_alive()


async def test_a_node_that_says_nothing(tmp_path: Path, folder: Path) -> None:
    """The client waits no longer than its limit."""
    with listening(folder), pytest.raises(ControlError, match="no sensible answer"):
        await asyncio.to_thread(NodeClient("a", tmp_path, 0.05).status)


async def test_the_socket_goes_with_the_node(folder: Path) -> None:
    """After the block nothing is left."""
    async with serve_control(control_routes(ScriptedNode()), folder):
        assert (folder / SOCKET_NAME).exists()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "idle"),
    [(STATUS, False), (replace(STATUS, jobs=0), False), (replace(STATUS, jobs=1, slots=()), False),
     (replace(STATUS, jobs=0, slots=()), True)],
)  # fmt: skip
def test_idle(status: NodeStatus, idle: bool) -> None:
    """A job that is only on its way out is still here."""
    assert status.idle is idle
