"""System folders of a machine's own, and stand-ins for the programs that an installation calls and a test may not.

Each checks what the true one would refuse, and does what the next line builds on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EMPTY = ("/opt", "/srv", "/var/lib", "/run")
"""Folders that an installation finds empty; what else lies in /opt, such as an interpreter, stays."""
SECURE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""sudo's, as Debian has it: a command elsewhere needs its path."""
READ_ALL = "--securebits=+no_setuid_fixup --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
"""The interpreter and this checkout may lie where only their owner looks. The bit has access(2) see that as well."""


def mounting(folder: Path) -> str:
    """The script that gives a machine system folders of its own, kept below `folder`."""
    private = folder / "system"
    return "\n".join(
        [
            f"mkdir -p {' '.join(f'{private}{place}' for place in ('/etc', *EMPTY))} {private}/etc/systemd/system",
            f"cp -a /etc/. {private}/etc && rm -rf {private}/etc/reelnet",
            f'for kept in /opt/*; do [ ! -d "$kept" ] || {{ mkdir "{private}$kept"',
            f'mount --rbind "$kept" "{private}$kept"; }}; done',
            *(f"mount --bind {private}{place} {place}" for place in ("/etc", *EMPTY)),
            "touch /run/docker.sock",
        ]
    )


def put_stand_ins(folder: Path) -> None:
    """Writes the programs into a folder of PATH."""
    script = f'exec "{sys.executable}" "{ROOT}/tests/fakes/{{}}.py" "$@"'
    as_user = f'exec setpriv --reuid="$user" --regid="$user" --clear-groups {READ_ALL} "$@"'
    user_environ = f"env -i PATH={SECURE_PATH} LANG=C.UTF-8 HOME=/var/lib/reelnet"
    programs = {
        "sudo": f'[ "$1" = -u ] || exit 2; user=$2; shift 2\n{as_user.replace("setpriv", user_environ + " setpriv")}',
        "systemctl": script.format("systemctl"),
        "docker": script.format("docker_cli"),
        "python3": f'[ "$1 $2" = "-m venv" ] || exec "{sys.executable}" "$@"\nshift 2; {script.format("pip_install")}',
    }
    for name, text in programs.items():
        write_program(folder / name, text)


def write_program(file: Path, text: str) -> None:
    """A shell script that everybody may execute."""
    file.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    file.chmod(0o755)


def checkout_environ() -> str:
    """Words for `env` that have an interpreter use this checkout."""
    return f"PYTHONPATH={os.pathsep.join([str(ROOT), str(ROOT / 'proto')])}"
