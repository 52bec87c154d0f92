"""Ed25519 identities: a key on disk, the id that contains it, and signatures over exactly the bytes sent."""

from __future__ import annotations

import base64
import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from reelnet.errors import ConfigError, RefusedError

KEY_BYTES = 32
KNOWN_KEYS = 1024
ID_CHARS = 52


@dataclass(frozen=True, slots=True)
class Signed:
    """Bytes under a signature: `payload` exactly as it travels, the signer's public key (32 bytes), 64 bytes."""

    payload: bytes
    key: bytes
    signature: bytes


class Identity:
    """One node's or broadcaster's private key. `id` is the public key in lower-case base32: it needs no directory."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.id = id_of(self.public)

    @classmethod
    def generate(cls) -> Identity:
        """A new identity that is nowhere stored."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The key in `path` (raw, mode 0600); made when missing. Raises ConfigError when others could read it."""
        try:
            _create(path)
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigError(f"{path}: the identity key cannot be written: {error.strerror}") from None
        return cls(Ed25519PrivateKey.from_private_bytes(_read(path)))

    def sign(self, context: str, payload: bytes) -> Signed:
        """`payload` signed for one purpose; `context` names it, so that one kind of payload never passes as another."""
        return Signed(payload, self.public, self._key.sign(_message(context, payload)))


def _create(path: Path) -> None:
    raw = Ed25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(raw)


def _read(path: Path) -> bytes:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the identity key cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(f"{path}: others can read this identity key (mode {mode:04o}); run: chmod 600 {path}")
    if len(raw) != KEY_BYTES:
        raise ConfigError(f"{path}: not an identity key ({KEY_BYTES} bytes); move it away to get a new identity")
    return raw


def id_of(public: bytes) -> str:
    """The id of a public key: 52 characters of lower-case base32. Raises RefusedError unless it has 32 bytes."""
    if len(public) != KEY_BYTES:
        raise RefusedError(f"a key has {KEY_BYTES} bytes", code="signature")
    return _id_of(public)


@lru_cache(maxsize=KNOWN_KEYS)
def _id_of(public: bytes) -> str:
    return base64.b32encode(public).decode().rstrip("=").lower()


def valid_id(text: str) -> bool:
    """Whether `text` has the form of an id."""
    try:
        return len(text) == ID_CHARS and id_of(base64.b32decode(text.upper() + "====")) == text
    except (ValueError, RefusedError):
        return False


def verify(context: str, signed: Signed, expected_id: str) -> bytes:
    """The payload, if `expected_id`'s key signed it for `context`. Raises RefusedError otherwise.

    The caller names the signer: a signature by a key that nobody named proves nothing.
    """
    if (signer := id_of(signed.key)) != expected_id:
        raise RefusedError(f"signed by another key: that of {signer}, not of {expected_id}", code="signature")
    try:
        _public_key(signed.key).verify(signed.signature, _message(context, signed.payload))
    except (InvalidSignature, ValueError):
        raise RefusedError("the signature does not match", code="signature") from None
    return signed.payload


@lru_cache(maxsize=KNOWN_KEYS)
def _public_key(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def _message(context: str, payload: bytes) -> bytes:
    return context.encode() + b"\0" + payload
