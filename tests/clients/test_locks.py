"""The lock files of the clients, and of what npm installs beside them: exact, hashed, and no address of a registry."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clients.drivers import HERE

PACKAGE = re.compile(r"^[a-z0-9-]+==[^ ]+", re.MULTILINE)


def test_the_python_lock() -> None:
    """Every package has hashes; the client is the version that is asked for."""
    lock = (HERE / "python" / "requirements.txt").read_text("utf-8")
    asked = (HERE / "python" / "requirements.in").read_text("utf-8").strip()
    packages = PACKAGE.split(lock)[1:]
    assert f"{asked} " in lock
    assert all("--hash=sha256:" in rest for rest in packages)
    assert "://" not in lock
    assert "index" not in lock


@pytest.mark.parametrize("folder", [HERE / "node", HERE.parents[1] / "scripts" / "redocly"], ids=["client", "redocly"])
def test_a_node_lock(folder: Path) -> None:
    """Every package has its digest and no address; what is installed is the version that is asked for."""
    lock = json.loads((folder / "package-lock.json").read_text("utf-8"))
    asked = json.loads((folder / "package.json").read_text("utf-8"))["dependencies"]
    assert lock["packages"].pop("")["dependencies"] == asked
    assert {name: lock["packages"][f"node_modules/{name}"]["version"] for name in asked} == asked
    for name, package in lock["packages"].items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
