"""The API keys of an operator's file, and what the jobs of each are held to."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reelnet.errors import ConfigError, RefusedError, printable
from reelnet.parameters import SAFETY_POLICIES, SafetyPolicy, strictest

ID_CHARS = 12
MAX_NAME_CHARS = 64
_NOTE = re.compile(r"(?:^|\s)#")
_SAFETY, _NAME = "safety=", "name="
_ALLOWED = SAFETY_POLICIES[1:]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its sha256, its name, and the least that its jobs ask of a safety checker. The default is no key."""

    digest: bytes = b""
    safety: SafetyPolicy = ""
    given_name: str = ""

    @property
    def id(self) -> str:
        """What logs, metrics and the journal call it: the first characters of its sha256; empty for no key."""
        return self.digest.hex()[:ID_CHARS]

    @property
    def name(self) -> str:
        """The name that the file gives it; its id where it gives none."""
        return self.given_name or self.id


class Keys:
    """The API keys of a file, kept as digests. None: no key is asked for."""

    def __init__(self, keys: Mapping[bytes, ApiKey] | None) -> None:
        self._keys = keys

    @classmethod
    def read(cls, path: Path | None) -> Keys:
        """No file: no key is asked for. A line is `KEY`, behind it `name=…` and `safety=…`; `#` begins a note.

        Of a key that stands twice the strictest line counts. Raises ConfigError for a file without keys, with a line
        that is none, or with one name for two keys.
        """
        if path is None:
            return cls(None)
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"keys_file: {path} cannot be read: {error}") from None
        keys: dict[bytes, ApiKey] = {}
        for number, line in enumerate(lines, 1):
            if key := key_of_line(line, where := f"keys_file: {path}, line {number}"):
                _add(keys, key, where)
        if not keys:
            raise ConfigError(f"keys_file: {path} holds no key; write one a line, or leave `keys_file` out")
        return cls(keys)

    @property
    def asked(self) -> bool:
        """Whether a key is asked for at all."""
        return self._keys is not None

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


def key_of_line(line: str, where: str = "") -> ApiKey | None:
    """The key of a line; None for a line without one. Raises ConfigError, which does not repeat the key."""
    words = _NOTE.split(line)[0].split()
    if not words:
        return None
    key, *settings = words
    if key.startswith((_SAFETY, _NAME)):
        raise ConfigError(f"{where}: no key stands before `{key.partition('=')[0]}=…`; write `KEY {_SAFETY}refuse`")
    safety = [word.removeprefix(_SAFETY) for word in settings if word.startswith(_SAFETY)]
    names = [word.removeprefix(_NAME) for word in settings if word.startswith(_NAME)]
    if len(safety) > 1 or len(names) > 1 or len(safety) + len(names) < len(settings):
        expected = f"one key a line, behind it `{_NAME}…` and `{_SAFETY}…` or nothing, notes after `#`"
        raise ConfigError(f"{where}: expected {expected}")
    return ApiKey(_digest(key), _policy(safety[0], where) if safety else "", _name(names[0], where) if names else "")


def _add(keys: dict[bytes, ApiKey], key: ApiKey, where: str) -> None:
    twin = next((other for other in keys.values() if other.name == key.name and other.digest != key.digest), None)
    if twin:
        raise ConfigError(f"{where}: another key has the name {key.name!r}; give each its own")
    if before := keys.get(key.digest):
        name = key.given_name or before.given_name
        key = replace(before, safety=strictest(key.safety, before.safety), given_name=name)
    keys[key.digest] = key


def _name(name: str, where: str) -> str:
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise ConfigError(f"{where}: {_NAME}… has 1 to {MAX_NAME_CHARS} printable characters, and no space")
    return name


def _policy(word: str, where: str) -> SafetyPolicy:
    for allowed in _ALLOWED:
        if word == allowed:
            return allowed
    raise ConfigError(f"{where}: {_SAFETY}{printable(word, 20)} is unknown; it may be {', '.join(_ALLOWED)}")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
