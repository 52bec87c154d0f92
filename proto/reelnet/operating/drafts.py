"""The first configuration file of a component: written whole or not at all, once the component would take it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from reelnet.errors import ConfigError
from reelnet.settings import ComponentSettings, load

S = TypeVar("S", bound=ComponentSettings)


def write_draft(file: Path, text: str, settings: type[S], *, force: bool) -> S:
    """The settings that the file gives; without `force` no file is replaced. Raises ConfigError."""
    if file.exists() and not force:
        raise ConfigError(f"{file}: is there already; replace it with --force, or name another file")
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(text, "utf-8")
        loaded = load(settings, partial)
        if force:
            partial.replace(file)
        else:
            os.link(partial, file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return loaded
