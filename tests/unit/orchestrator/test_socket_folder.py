"""Where the runners' sockets lie when the state folder's path is too long for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app import SLOT_NAME_CHARS, SOCKET_PATH_LIMIT, _socket_folder
from reelnet.errors import StartError


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder with a long path; temporary folders lie beside it."""
    folder = tmp_path / ("x" * SOCKET_PATH_LIMIT)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return folder


def test_a_short_path_is_taken_as_it_is() -> None:
    """In the node's own folder."""
    short = Path("/s")
    assert len(str(short / "slots")) <= SOCKET_PATH_LIMIT - SLOT_NAME_CHARS
    with _socket_folder(short) as sockets:
        assert sockets == short / "slots"


def test_a_node_that_was_killed_finds_its_sockets(deep: Path) -> None:
    """The folder is private, the same at each start, and as it was left; a clean stop removes it."""
    killed = _socket_folder(deep)
    first = killed.__enter__()  # and no exit: the process is gone
    (first / "runner.sock").touch()
    with _socket_folder(deep) as second:
        assert second == first
        assert (second / "runner.sock").exists()
        assert second.stat().st_mode & 0o777 == 0o700
    assert not first.exists()
    killed.__exit__(None, None, None)


@pytest.mark.parametrize("what", ["link", "open", "file"])
def test_somebody_elses_folder_is_not_taken(deep: Path, tmp_path: Path, what: str) -> None:
    """In a folder that everybody may write to, the name may have been taken by another user."""
    with _socket_folder(deep) as path:
        pass
    match what:
        case "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            path.symlink_to(tmp_path / "elsewhere")
        case "open":
            path.mkdir()
            path.chmod(0o777)
        case "file":
            path.touch()
    with pytest.raises(StartError, match="TMPDIR"), _socket_folder(deep):
        pass
