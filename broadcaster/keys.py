"""The API keys of an operator's file, and what the jobs of each are held to."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reelnet.errors import ConfigError, RefusedError, printable
from reelnet.parameters import SAFETY_POLICIES, SafetyPolicy, strictest

_NOTE = re.compile(r"(?:^|\s)#")
_SAFETY = "safety="
_ALLOWED = SAFETY_POLICIES[1:]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its sha256, and the least that its jobs ask of a safety checker. The default is no key at all."""

    digest: bytes = b""
    safety: SafetyPolicy = ""


class Keys:
    """The API keys of a file, kept as digests."""

    def __init__(self, policies: Mapping[bytes, SafetyPolicy] | None) -> None:
        self._policies = policies

    @classmethod
    def read(cls, path: Path | None) -> Keys:
        """No file: no key is asked for. A line is `KEY` or `KEY safety=refuse`; `#` begins a note.

        Of a key that stands twice the strictest line counts. Raises ConfigError for a file without keys, or with a
        line that is none.
        """
        if path is None:
            return cls(None)
        try:
            lines = [_NOTE.split(line)[0].split() for line in path.read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"keys_file: {path} cannot be read: {error}") from None
        policies: dict[bytes, SafetyPolicy] = {}
        for number, words in enumerate(lines, 1):
            if words:
                key = _key(words, f"keys_file: {path}, line {number}")
                policies[key.digest] = strictest(key.safety, policies.get(key.digest, ""))
        if not policies:
            raise ConfigError(f"keys_file: {path} holds no key; write one a line, or leave `keys_file` out")
        return cls(policies)

    @property
    def asked(self) -> bool:
        """Whether a key is asked for at all."""
        return self._policies is not None

    def check(self, authorization: str) -> ApiKey:
        """The header's key; the default where no key is asked for. Raises RefusedError (401) for any other."""
        if self._policies is None:
            return ApiKey()
        scheme, _, key = authorization.partition(" ")
        digest = _digest(key.strip())
        known = scheme.lower() == "bearer" and any(hmac.compare_digest(d, digest) for d in self._policies)
        if not known:
            raise RefusedError("an API key is needed: Authorization: Bearer <key>", code="key", http_status=401)
        return ApiKey(digest, self._policies[digest])


def _key(words: list[str], where: str) -> ApiKey:
    """The key of a line, which no message repeats. Raises ConfigError."""
    key, *settings = words
    if key.startswith(_SAFETY):
        raise ConfigError(f"{where}: no key stands before `{_SAFETY}…`; write `KEY {_SAFETY}refuse`")
    if len(settings) > 1 or not all(setting.startswith(_SAFETY) for setting in settings):
        raise ConfigError(f"{where}: expected one key a line, behind it `{_SAFETY}…` or nothing, notes after `#`")
    return ApiKey(_digest(key), _policy(settings[0].removeprefix(_SAFETY), where) if settings else "")


def _policy(word: str, where: str) -> SafetyPolicy:
    for allowed in _ALLOWED:
        if word == allowed:
            return allowed
    raise ConfigError(f"{where}: {_SAFETY}{printable(word, 20)} is unknown; it may be {', '.join(_ALLOWED)}")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
