"""Keys are made and revoked in the operator's file, which stays whole, private and commented."""

from __future__ import annotations

from pathlib import Path

import pytest

from broadcaster.keys import Keys
from broadcaster.operator.key_file import add_key, revoke_key
from reelnet.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is not there yet."""
    return tmp_path / "keys"


def names(file: Path) -> list[str]:
    return [key.name for key in Keys.read(file).known()]


def test_a_key_is_made_and_works(file: Path) -> None:
    """It has its name and policy, and the file is for its owner alone."""
    key = add_key(file, "alice", "blur")
    found = Keys.read(file).check(f"Bearer {key}")
    assert (found.name, found.safety, len(found.id)) == ("alice", "blur", 12)
    assert key not in repr(found)
    assert file.stat().st_mode & 0o777 == 0o600


def test_notes_and_the_mode_stay(file: Path) -> None:
    """A line that lacks its end gets it; what is no key is left as it is."""
    file.write_text("# ours\nabc name=old # since 2026")
    file.chmod(0o640)
    add_key(file, "new")
    assert file.read_text().startswith("# ours\nabc name=old # since 2026\n")
    assert names(file) == ["old", "new"]
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("name", "safety", "said"),
    [
        ("old", "", "two keys have the name old"),
        ("two words", "", "expected one key a line"),
        ("", "", "1 to 64 printable characters"),
        ("x" * 65, "", "1 to 64 printable characters"),
        ("new\nevil name=root", "", "a name is one word"),
        ("new #", "", "a name is one word"),
        ("new", "block", "safety=block is unknown"),
    ],
)
def test_what_is_no_name_changes_nothing(file: Path, name: str, safety: str, said: str) -> None:
    """The fault is named by the file's own path."""
    file.write_text("abc name=old\n")
    with pytest.raises(ConfigError, match=said) as caught:
        add_key(file, name, safety)
    assert f"keys_file: {file}" in str(caught.value)
    assert file.read_text() == "abc name=old\n"
    assert list(file.parent.iterdir()) == [file]


def test_a_key_is_revoked_by_name_or_id(file: Path) -> None:
    """Every line of it, and no other line."""
    file.write_text("# ours\nabc name=a\nabc safety=blur\ndef\nghi name=c # the third\n")
    revoke_key(file, "a")
    assert file.read_text() == "# ours\ndef\nghi name=c # the third\n"
    revoke_key(file, Keys.read(file).known()[0].id)
    assert file.read_text() == "# ours\nghi name=c # the third\n"


def test_nobody_and_the_last_one_cannot_be_revoked(file: Path) -> None:
    """The message says what to do."""
    file.write_text("abc name=a\n")
    with pytest.raises(ConfigError, match="no key with the id or name 'b'; see `broadcaster keys list`"):
        revoke_key(file, "b")
    with pytest.raises(ConfigError, match=r"'a' is the only key of .*; add another first"):
        revoke_key(file, "a")
    assert names(file) == ["a"]
