"""The API keys of an operator's file, and what the jobs of each are held to."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reelnet.errors import ConfigError, RefusedError, printable
from reelnet.metrics import OTHER
from reelnet.parameters import SAFETY_POLICIES, SafetyPolicy, strictest

ID_CHARS = 12
"""Hexadecimal characters of a key's sha256 that are its id: enough to tell keys apart, and no help to guess one."""
MAX_NAME_CHARS = 64
NO_KEY = "none"
"""The name of no key in metrics."""
_NOTE = re.compile(r"(?:^|\s)#")
_NAME, _SAFETY = "name", "safety"
_ALLOWED = SAFETY_POLICIES[1:]
_EXPECTED = "expected one key a line, behind it `name=…` and `safety=…` or nothing, notes after `#`"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its sha256, its name, and the least that its jobs ask of a safety checker. The default is no key."""

    digest: bytes = b""
    safety: SafetyPolicy = ""
    name: str = ""

    @property
    def id(self) -> str:
        """Stands for the key in journal and log: the same wherever the key is, whatever it is called."""
        return self.digest.hex()[:ID_CHARS]


class Keys:
    """The API keys of a file, kept as digests. None: no key is asked for."""

    def __init__(self, keys: Mapping[bytes, ApiKey] | None) -> None:
        self._keys = keys

    @classmethod
    def read(cls, path: Path | None) -> Keys:
        """No file: no key is asked for. A line is `KEY`, behind it `name=…` and `safety=…` if wanted; `#` begins
        a note.

        Of a key that stands twice the strictest line counts. Raises ConfigError for a file without keys, or with a
        line that is none, and for two keys of one name.
        """
        if path is None:
            return cls(None)
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"keys_file: {path} cannot be read: {error}") from None
        where = f"keys_file: {path}"
        found = [(n, key) for n, line in enumerate(lines, 1) if (key := key_of_line(line, where, n))]
        keys = _named(where, _merged(where, found))
        if not keys:
            raise ConfigError(f"keys_file: {path} holds no key; write one a line, or leave `keys_file` out")
        return cls(keys)

    @property
    def asked(self) -> bool:
        """Whether a key is asked for at all."""
        return self._keys is not None

    @property
    def names(self) -> tuple[str, ...]:
        """What the keys are called, in the order of the file."""
        return tuple(key.name for key in self.known())

    def known(self) -> list[ApiKey]:
        """Every key, in the order of the file."""
        return list((self._keys or {}).values())

    def take_over(self, other: Keys) -> None:
        """Knows the keys of `other`, and no others, from now on."""
        self._keys = other._keys

    def check(self, authorization: str) -> ApiKey:
        """The header's key; the default where no key is asked for. Raises RefusedError (401) for any other."""
        if self._keys is None:
            return ApiKey()
        scheme, _, key = authorization.partition(" ")
        digest = _digest(key.strip())
        known = scheme.lower() == "bearer" and any(hmac.compare_digest(d, digest) for d in self._keys)
        if not known:
            raise RefusedError("an API key is needed: Authorization: Bearer <key>", code="key", http_status=401)
        return self._keys[digest]


def key_of_line(line: str, where: str, number: int) -> ApiKey | None:
    """The key of a line, without a name where the line gives none; None for a line without a key. Raises ConfigError.

    No message repeats the key.
    """
    words = _NOTE.split(line)[0].split()
    if not words:
        return None
    where = f"{where}, line {number}"
    key, *settings = words
    if key.startswith((f"{_NAME}=", f"{_SAFETY}=")):
        raise ConfigError(f"{where}: no key stands before `{key.partition('=')[0]}=…`; write `KEY {_SAFETY}=refuse`")
    said = dict(setting.partition("=")[::2] for setting in settings)
    if len(said) < len(settings) or said.keys() - {_NAME, _SAFETY}:
        raise ConfigError(f"{where}: {_EXPECTED}")
    name = _name(said[_NAME], where) if _NAME in said else ""
    return ApiKey(_digest(key), _policy(said[_SAFETY], where) if _SAFETY in said else "", name)


def _name(word: str, where: str) -> str:
    if not word or len(word) > MAX_NAME_CHARS or not word.isprintable() or word in (NO_KEY, OTHER):
        allowed = f"1 to {MAX_NAME_CHARS} printable characters, and not {NO_KEY} or {OTHER}"
        raise ConfigError(f"{where}: {_NAME}={printable(word, 20)} is no name; it may have {allowed}")
    return word


def _policy(word: str, where: str) -> SafetyPolicy:
    for allowed in _ALLOWED:
        if word == allowed:
            return allowed
    raise ConfigError(f"{where}: {_SAFETY}={printable(word, 20)} is unknown; it may be {', '.join(_ALLOWED)}")


def _merged(where: str, lines: Iterable[tuple[int, ApiKey]]) -> dict[bytes, tuple[int, ApiKey]]:
    """Each key once, with the line that names it, else its first. Raises ConfigError for a key of two names."""
    found: dict[bytes, tuple[int, ApiKey]] = {}
    for number, key in lines:
        first, before = found.setdefault(key.digest, (number, key))
        if before.name and key.name and before.name != key.name:
            raise ConfigError(f"{where}, lines {first} and {number}: one key has two names; take one line out")
        line = number if key.name and not before.name else first
        safety = strictest(key.safety, before.safety)
        found[key.digest] = line, replace(key, safety=safety, name=before.name or key.name)
    return found


def _named(where: str, found: Mapping[bytes, tuple[int, ApiKey]]) -> dict[bytes, ApiKey]:
    """The keys, called by their ids where they have no name. Raises ConfigError for two of one name."""
    lines: dict[str, int] = {}
    for number, key in found.values():
        name = key.name or key.id
        if (first := lines.setdefault(name, number)) != number:
            raise ConfigError(f"{where}, lines {first} and {number}: two keys have the name {name}; name one otherwise")
    return {digest: replace(key, name=key.name or key.id) for digest, (_, key) in found.items()}


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
