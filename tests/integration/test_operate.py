"""The handbook's lines do what it says: each is executed as it stands, in its order, on a machine of its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.desk_operator import DeskOperator
from tests.fakes.installation import mounting, put_stand_ins
from tests.fakes.machine import PATIENCE_S, machine
from tests.fakes.operators import OPERATE, Operator, ServiceOperator
from tests.fakes.page import Step
from tests.programs import needs

SERVICE = ("As a service", "With compose", "Draining and upgrading")
"""The sections for a machine on which the node is a service; in the others it runs in a terminal."""
WHOLE_TABLE = "Commands"
"""The section whose table is checked against the programs: tests/unit/test_operate_page.py."""


@contextmanager
def bench(kind: type[Operator]) -> Iterator[Operator]:
    """An operator at a machine with system folders of its own, whose sockets fit a path's limit."""
    needs("setpriv", "useradd", "systemd-analyze", "sqlite3")
    with tempfile.TemporaryDirectory(prefix="rn-", dir="/tmp") as folder:
        own = Path(folder) / "machine"
        with machine(own, mounting=mounting(Path(folder))) as made:
            put_stand_ins(own / "bin")
            made.environ |= {"HOSTS": json.dumps({"gpu-box": made.network}), "XDG_STATE_HOME": f"{folder}/s"}
            yield kind(made)


def walk(of_service: bool) -> Iterator[tuple[str, Step]]:
    """The steps on one of the two machines; what other sections have to say of a service is done when there is one."""
    desk, later = [], []
    for title, section in OPERATE.sections.items():
        for step in section.steps:
            if title == WHOLE_TABLE and f"| `{step.text}" in section.text:
                continue
            if title in SERVICE and of_service:
                yield title, step
            elif title not in SERVICE:
                (later if step.text.startswith("sudo ") else desk).append((title, step))
    yield from later if of_service else desk


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("kind", [DeskOperator, ServiceOperator])
def test_the_handbook_in_its_order(kind: type[Any]) -> None:
    """Every line and every file of the page does what the page says."""
    with bench(kind) as operator:
        for title, step in walk(kind is ServiceOperator):
            operator.take(title, step)
        operator.finish()
