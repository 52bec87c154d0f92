"""The file of API keys, and the policies in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from broadcaster.keys import Keys
from reelnet.errors import ConfigError

PLAIN, HELD = "rn-0123456789abcdef", "rn-fedcba9876543210"


def read(folder: Path, text: str) -> Keys:
    """The keys of a file with this text."""
    (folder / "keys").write_text(text)
    return Keys.read(folder / "keys")


def policy(keys: Keys, key: str) -> str:
    return keys.check(f"Bearer {key}").safety


@pytest.mark.parametrize("word", ["flag", "blur", "refuse"])
def test_a_key_may_have_a_policy(tmp_path: Path, word: str) -> None:
    """Behind it on its line, before the note; a key without one asks for nothing."""
    keys = read(tmp_path, f"# school\n{HELD}  safety={word}\t# safety=none of this counts\n{PLAIN}  # alice\n")
    assert (policy(keys, HELD), policy(keys, PLAIN)) == (word, "")


def test_a_key_that_stands_twice_is_held_to_the_stricter_line(tmp_path: Path) -> None:
    """Whichever comes first: a line that was left over must not loosen another."""
    for lines in ([HELD, f"{HELD} safety=blur"], [f"{HELD} safety=blur", HELD], [f"{HELD} safety=blur"] * 2):
        assert policy(read(tmp_path, "\n".join(lines)), HELD) == "blur"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{HELD} safety=block", "safety=block is unknown; it may be flag, blur, refuse"),
        (f"{HELD} safety=", "it may be flag, blur, refuse"),
        (f"{HELD} safety=Refuse", "it may be flag, blur, refuse"),
        (f"{HELD} refuse", "expected one key a line"),
        (f"{HELD} safety=refuse safety=flag", "expected one key a line"),
        (f"{HELD} safety = refuse", "expected one key a line"),
        (f"{HELD} name=a name=b", "expected one key a line"),
        (f"{HELD} name=a colour=red", "expected one key a line"),
        (f"{HELD} name=", "it may have 1 to 64 printable characters"),
        (f"{HELD} name={'x' * 65}", "it may have 1 to 64 printable characters"),
        (f"{HELD} name=a\u202eb", "it may have 1 to 64 printable characters"),
        (f"{HELD} name=other", "and not none or other"),
        (f"name=shop {HELD}", "no key stands before `name=…`"),
        ("safety=refuse", "no key stands before"),
        (f"safety=refuse {HELD}", "no key stands before"),
    ],
)
def test_a_line_that_is_no_key_is_a_fault(tmp_path: Path, line: str, said: str) -> None:
    """With its number and what may stand there; no key is repeated, and a forgotten one opens nothing."""
    with pytest.raises(ConfigError, match=said) as caught:
        read(tmp_path, f"{PLAIN}\n{line}\n")
    assert "line 2" in str(caught.value)
    assert HELD not in str(caught.value)


def test_a_key_has_an_id_and_a_name(tmp_path: Path) -> None:
    """The id is the key's own wherever it stands; the name is the file's, and the id where it has none."""
    keys = read(tmp_path, f"{HELD} safety=blur name=school\n{PLAIN}\n")
    held, plain = keys.check(f"Bearer {HELD}"), keys.check(f"Bearer {PLAIN}")
    assert held.id == hashlib.sha256(HELD.encode()).hexdigest()[:12]
    assert (held.name, held.safety, plain.name) == ("school", "blur", plain.id)
    assert keys.names == ("school", plain.id)
    renamed = read(tmp_path, f"# moved\n{HELD} name=academy safety=blur\n").check(f"Bearer {HELD}")
    assert (renamed.id, renamed.name, renamed.safety) == (held.id, "academy", "blur")
    assert HELD not in repr(keys.check(f"Bearer {PLAIN}")) + repr(held)


@pytest.mark.parametrize(
    "lines", [[f"{HELD} name=school", HELD], [HELD, f"{HELD} name=school"], [f"{HELD} name=school"] * 2]
)
def test_a_key_that_stands_twice_keeps_its_name(tmp_path: Path, lines: list[str]) -> None:
    """Whichever line has it."""
    assert read(tmp_path, "\n".join(lines)).names == ("school",)


def test_names_tell_keys_apart(tmp_path: Path) -> None:
    """Two of one name, also where it is another key's id, and two names of one key are a fault with both lines."""
    own = hashlib.sha256(PLAIN.encode()).hexdigest()[:12]
    for lines, said in (
        ([f"{HELD} name=x", f"{PLAIN} name=x"], "lines 2 and 3: two keys have the name x"),
        ([f"{HELD} name={own}", PLAIN], f"lines 2 and 3: two keys have the name {own}"),
        ([f"{HELD} name=x", f"{HELD} name=y"], "lines 2 and 3: one key has two names"),
    ):
        with pytest.raises(ConfigError, match=said):
            read(tmp_path, "\n".join(["# keys", *lines]))


def test_without_a_file_nothing_is_asked() -> None:
    """Neither a key nor a policy."""
    keys = Keys.read(None)
    assert not keys.asked
    assert (keys.check("").safety, keys.check("").name, keys.names) == ("", "", ())
