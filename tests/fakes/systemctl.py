"""Stands in for `systemctl` where no systemd runs: looks at the unit, and starts, signals and ends its service.

The service is started as its unit says, without the sandbox and the drop-ins: `systemd-analyze verify` reads those.
"""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.fakes.installation import READ_ALL, SECURE_PATH

UNITS = Path("/etc/systemd/system")
PATIENCE_S = 60


def main() -> None:
    """One command of systemctl's."""
    verb, *words = sys.argv[1:]
    names = [word for word in words if word != "--now"]
    if verb == "daemon-reload":
        return
    [name] = names
    {"enable": start, "restart": restart, "reload": reload, "stop": stop}[verb](name)


def start(name: str) -> None:
    """Starts a service, and waits for its READY, as systemd does for `Type=notify`."""
    unit = UNITS / f"{name}.service"
    verify(unit)
    service = read(unit)
    folder = Path("/var/lib") / service["StateDirectory"]
    folder.mkdir(exist_ok=True)
    folder.chmod(int(service["StateDirectoryMode"], 8))
    shutil.chown(folder, service["User"], service["Group"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"/run/{name}.notify")
        os.chmod(f"/run/{name}.notify", 0o777)
        manager.settimeout(0.2)
        process = launched(name, service, f"/run/{name}.notify")
        pid_file(name).write_text(str(process.pid))
        wait_until_ready(name, process, manager)
    Path(f"/run/{name}.notify").unlink()


def wait_until_ready(name: str, process: subprocess.Popen[bytes], manager: socket.socket) -> None:
    """Until the service says READY; fails with what it said when it ends, or takes too long."""
    deadline, said = time.monotonic() + PATIENCE_S, b""
    while b"READY=1" not in said:
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            log = Path(f"/run/{name}.log").read_text("utf-8", "replace")[-2000:]
            raise AssertionError(f"{name} {'ended' if ended else 'is not ready'}: {log}")
        with suppress(TimeoutError):
            said = manager.recv(4096)


def launched(name: str, service: configparser.SectionProxy, manager: str) -> subprocess.Popen[bytes]:
    """The service's process, in its folder, as its user."""
    user = service["User"]
    as_user = ["setpriv", f"--reuid={user}", f"--regid={service['Group']}", "--clear-groups", *READ_ALL.split()]
    environ = dict(word.split("=", 1) for word in shlex.split(service["Environment"]))
    with Path(f"/run/{name}.log").open("ab") as log:
        return subprocess.Popen(
            [*as_user, *shlex.split(service["ExecStart"])], cwd=service["WorkingDirectory"],
            env={"PATH": SECURE_PATH, "NOTIFY_SOCKET": manager, **environ}, stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def restart(name: str) -> None:
    """A clean end, and a start."""
    stop(name)
    start(name)


def reload(name: str) -> None:
    """As ExecReload says."""
    command = read(UNITS / f"{name}.service")["ExecReload"].replace("$MAINPID", pid_file(name).read_text().strip())
    subprocess.run(shlex.split(command), check=True, timeout=PATIENCE_S)


def stop(name: str) -> None:
    """SIGTERM to the main process, until it is gone."""
    pid = int(pid_file(name).read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_S
    while runs(pid):
        assert time.monotonic() < deadline, f"{name} does not end"
        time.sleep(0.02)
    pid_file(name).unlink()


def runs(pid: int) -> bool:
    """Whether there is such a process, and not what is left of one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_file(name: str) -> Path:
    """Where the process of a service is remembered."""
    return Path(f"/run/{name}.pid")


def verify(unit: Path) -> None:
    """As systemd reads it. Raises CalledProcessError."""
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert not said.stdout + said.stderr, said


def read(unit: Path) -> configparser.SectionProxy:
    """The unit's own service section."""
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return parser["Service"]


if __name__ == "__main__":
    main()
