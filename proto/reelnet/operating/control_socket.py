"""The Unix socket in a component's state folder over which its operator speaks to it.

A socket's path has 108 bytes at most; a path through an open folder's descriptor is short whatever the folder's own is.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reelnet.errors import StartError

SOCKET_NAME = "control.sock"
BACKLOG = 16


@contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """A listening socket, mode 0600, for the length of the block; what a killed process left is replaced.

    Raises StartError when somebody answers there, or when the folder does not take a socket.
    """
    path = folder / SOCKET_NAME
    _clear(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            with _short(folder) as short, _private():
                sock.bind(short)
            sock.listen(BACKLOG)
        except OSError as error:
            raise StartError(f"{path}: the control socket cannot be made: {error.strerror}") from None
        ours = path.lstat().st_ino
        try:
            yield sock
        finally:
            _remove(path, ours)


def connect(folder: Path, timeout_s: float) -> socket.socket:
    """A connection to the component of a state folder. Raises OSError: FileNotFoundError, ConnectionRefusedError, …"""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        with _short(folder) as short:
            sock.connect(short)
    except BaseException:
        sock.close()
        raise
    return sock


def _clear(path: Path) -> None:
    """Removes a socket that nobody listens on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StartError(f"{path}: this is no socket; move it away")
        connect(path.parent, timeout_s=1).close()
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except OSError as error:
        raise StartError(f"{path}: whether somebody listens there cannot be told: {error.strerror or error}") from None
    raise StartError(f"{path}: another one listens there; stop it, or name this one with --name")


def _remove(path: Path, inode: int) -> None:
    """Removes our own socket: not one that somebody has put in its place."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        pass


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path of the folder's socket that is never too long. Raises OSError when the folder is not there."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


@contextmanager
def _private() -> Iterator[None]:
    """New files are for their owner alone: there is no moment at which others could connect."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
