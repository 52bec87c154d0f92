"""Keys on disk, ids, and signatures."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from reelnet.errors import ConfigError, RefusedError
from reelnet.identity import ID_CHARS, Identity, Signed, id_of, valid_id, verify

ALICE, BOB = (Identity(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2))


@given(st.binary(max_size=100))
def test_what_was_signed_is_verified(payload: bytes) -> None:
    """The named signer's payload comes back as it was."""
    assert verify("context", ALICE.sign("context", payload), ALICE.id) == payload


def test_another_signer_is_refused() -> None:
    """A good signature by a key that nobody named proves nothing, also with the named key's id beside it."""
    signed = BOB.sign("context", b"pay Bob")
    with pytest.raises(RefusedError, match="another key") as caught:
        verify("context", signed, ALICE.id)
    assert caught.value.code == "signature"
    with pytest.raises(RefusedError, match="does not match"):
        verify("context", Signed(signed.payload, ALICE.public, signed.signature), ALICE.id)


def test_another_context_is_refused() -> None:
    """A ticket never passes as a description, nor does the boundary between context and payload move."""
    signed = ALICE.sign("ab", b"c")
    for context, payload in (("a", b"bc"), ("abc", b""), ("ab ", b"c"), ("AB", b"c")):
        with pytest.raises(RefusedError):
            verify(context, Signed(payload, signed.key, signed.signature), ALICE.id)


@given(st.integers(0, 9), st.integers(0, 7))
def test_a_changed_bit_is_refused(place: int, bit: int) -> None:
    """Each bit of the payload and of the signature counts."""
    signed = ALICE.sign("context", bytes(10))
    flip = bytes((1 << bit) if i == place else 0 for i in range(10))
    with pytest.raises(RefusedError):
        verify("context", Signed(flip, signed.key, signed.signature), ALICE.id)
    damaged = bytearray(signed.signature)
    damaged[place * 6] ^= 1 << bit
    with pytest.raises(RefusedError):
        verify("context", Signed(signed.payload, signed.key, bytes(damaged)), ALICE.id)


@pytest.mark.parametrize("key", [b"", b"short", bytes(33), b"\xff" * 32])
@pytest.mark.parametrize("signature", [b"", bytes(64), bytes(65)])
def test_malformed_keys_and_signatures_are_refused(key: bytes, signature: bytes) -> None:
    """Bytes of any length from a peer are a refusal, never a crash."""
    with pytest.raises(RefusedError):
        verify("context", Signed(b"payload", key, signature), id_of(key))


def test_a_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    """The first start makes the key with mode 0600; later ones have the same id."""
    path = tmp_path / "identity.key"
    first = Identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 32
    again = Identity.load_or_create(path)
    assert again.id == first.id
    assert verify("c", again.sign("c", b"x"), first.id) == b"x"
    assert Identity.load_or_create(tmp_path / "other.key").id != first.id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o601])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The error says what to type."""
    path = tmp_path / "identity.key"
    Identity.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        Identity.load_or_create(path)


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"-----BEGIN PRIVATE KEY-----"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """It is left as it is: it may be somebody's identity."""
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not an identity key"):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_a_folder_that_is_missing_is_the_operators_fault(tmp_path: Path) -> None:
    """The text names the path and what the system said."""
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        Identity.load_or_create(tmp_path / "none" / "identity.key")


@given(st.binary(min_size=32, max_size=32))
def test_an_id_is_its_key(public: bytes) -> None:
    """52 lower-case characters that need no escaping in an address."""
    text = id_of(public)
    assert len(text) == ID_CHARS
    assert valid_id(text)
    assert text.isascii()
    assert text.isalnum()
    assert text == text.lower()


@pytest.mark.parametrize(
    "text",
    ["", "a", ALICE.id.upper(), ALICE.id[:-1], ALICE.id + "a", ALICE.id[:-1] + "1", ALICE.id[:-4] + "====",
     " " + ALICE.id[1:], "ß" * 52, "a" * 51 + "b", "a" * 51 + "\n"],
)  # fmt: skip
def test_what_is_no_id(text: str) -> None:
    """Wrong length, alphabet or case, and trailing bits that no key has."""
    assert not valid_id(text)
