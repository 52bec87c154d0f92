"""What `broadcaster doctor` finds of keys, journal and nodes, and how it says to mend it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from broadcaster.journal_schema import JOURNAL_FILE, SCHEMA
from broadcaster.operator.doctor_checks import CHECKS, BroadcasterMachine, inspection, journal, keys, nodes
from broadcaster.settings import BroadcasterSettings
from reelnet.database.opening import database_url, open_database
from reelnet.operating.doctor import Finding, Verdict

PASS, WARN, FAIL = Verdict.PASS, Verdict.WARN, Verdict.FAIL


def machine(home: Path, **values: Any) -> BroadcasterMachine:
    """This machine, for a broadcaster with these settings."""
    return BroadcasterMachine(BroadcasterSettings.model_validate({"home": home, **values}))


def only(findings: Iterable[Finding]) -> Finding:
    """The one finding, which has its fix unless all is well."""
    [found] = findings
    assert bool(found.fix) == (found.verdict is not PASS), found
    return found


def test_each_check_has_a_name_of_its_own() -> None:
    """The order is that in which a fault explains the next ones."""
    names = [check.name for check in CHECKS]
    assert names == ["python", "state", "key", "ports", "clock", "keys", "journal", "inspection", "nodes"]


def test_keys_are_private(tmp_path: Path) -> None:
    """Others may not read them; a fault is told by its line; none at all is allowed."""
    file = tmp_path / "keys"
    file.write_text("secret name=a\n")
    file.chmod(0o600)
    assert only(keys(machine(tmp_path, keys_file=file))).verdict is PASS
    file.chmod(0o644)
    found = only(keys(machine(tmp_path, keys_file=file)))
    assert (found.verdict, found.fix.startswith(f"chmod 600 {file}")) == (WARN, True)
    file.write_text("secret colour=red\n")
    found = only(keys(machine(tmp_path, keys_file=file)))
    assert (found.verdict, "line 1" in found.text, "secret" in found.text) == (FAIL, True, False)
    assert only(keys(machine(tmp_path))).verdict is PASS


def test_a_journal_is_looked_at_and_left_as_it_is(tmp_path: Path) -> None:
    """Not there, of today, of before, newer, damaged."""
    at = machine(tmp_path)
    assert "not there yet" in only(journal(at)).text
    at.folder.mkdir(parents=True)
    file = at.folder / JOURNAL_FILE
    open_database(database_url("sqlite", file), SCHEMA).dispose()
    assert "whole, version 2" in only(journal(at)).text
    _version(file, "3")
    before = file.read_bytes()
    found = only(journal(at))
    assert f"journal: {file} has version 3" in found.text
    assert (found.verdict, "version 3 of its schema" in found.text, "install the newer" in found.fix) == (
        FAIL,
        True,
        True,
    )
    assert file.read_bytes() == before
    _version(file, "1")
    assert "version 1; the next start copies it, and brings it to version 2" in only(journal(at)).text
    file.write_bytes(b"no database" * 100)
    found = only(journal(at))
    assert (found.verdict, "no database of SQLite" in found.text) == (FAIL, True)
    assert "restore your copy" in found.fix


def test_media_can_be_checked(tmp_path: Path) -> None:
    """The child starts, and takes a picture for one."""
    assert only(inspection(machine(tmp_path))).verdict is PASS


def test_nodes_that_are_not_there(tmp_path: Path) -> None:
    """None at all is a warning, one where nothing listens a fault with its address."""
    assert only(nodes(machine(tmp_path))).verdict is WARN
    found = only(nodes(machine(tmp_path, orchestrators=["127.0.0.1:1"])))
    assert (found.verdict, found.text.startswith("127.0.0.1:1: ")) == (FAIL, True)
    assert "see that a node listens at 127.0.0.1:1" in found.fix


def _version(file: Path, version: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE schema_version SET version_num = ?", [version])
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
