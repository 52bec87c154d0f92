"""Becomes another program that the kernel ends with its parent: `python -m benchmark.leash PARENT_PID COMMAND…`.

Even SIGKILL of the parent leaves nothing behind. The tie is made here and not between fork and exec, where a process
with threads may do next to nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when the thread that started it ends; it survives exec."""


def main() -> None:
    """Ties this process to its parent and executes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"leash: cannot be tied to the parent: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("leash: the parent has gone already")
    os.execvp(command[0], command)  # noqa: S606  (the command is this program's own: no shell wanted)


if __name__ == "__main__":
    main()
