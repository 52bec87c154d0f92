"""Changes to the file of keys: whole or not at all, for its owner alone, with its notes kept."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from broadcaster.keys import Keys, key_of_line
from reelnet.errors import ConfigError

KEY_BYTES = 24
MODE = 0o600


def add_key(path: Path, name: str, safety: str = "") -> str:
    """Adds a fresh key with this name, and returns it; makes the file if it is not there. Raises ConfigError."""
    key = secrets.token_hex(KEY_BYTES)
    text = _read(path) if path.exists() else ""
    line = f"{key} name={name}" + (f" safety={safety}" if safety else "")
    if len(line.splitlines()) > 1 or "#" in name:
        raise ConfigError(f"keys_file: {path}: a name is one word without #")
    _write(path, f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n")
    return key


def revoke_key(path: Path, wanted: str) -> None:
    """Takes out each line of the key with this id or name. Raises ConfigError when there is none, or no other key."""
    lines = _read(path).splitlines(keepends=True)
    keys = [key_of_line(line, f"keys_file: {path}", number) for number, line in enumerate(lines, 1)]
    found = {key.digest for key in keys if key and wanted in (key.id, key.name)}
    if not found:
        raise ConfigError(f"keys_file: {path} has no key with the id or name {wanted!r}; see `broadcaster keys list`")
    if all(key is None or key.digest in found for key in keys):
        raise ConfigError(
            f"keys_file: {wanted!r} is the only key of {path}; add another first with `broadcaster keys add`, or take "
            "`keys_file` out of the configuration, and nobody is asked for a key"
        )
    _write(path, "".join(line for line, key in zip(lines, keys, strict=True) if not key or key.digest not in found))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"keys_file: {path} cannot be read: {error}") from None


def _write(path: Path, text: str) -> None:
    """The new file in the place of the old one, once it can be read as keys. Raises ConfigError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else MODE
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Keys.read(partial)
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"keys_file: {path} cannot be written: {error.strerror}") from None
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(partial), str(path))) from None
    finally:
        partial.unlink(missing_ok=True)
