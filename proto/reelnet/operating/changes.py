"""What a reload changes: of two configurations, which differences apply at once and which need a restart."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeVar

from reelnet.settings import ComponentSettings

NEEDS_RESTART = "needs a restart"
S = TypeVar("S", bound=ComponentSettings)


def taken_over(before: S, wanted: S, live: Collection[str]) -> S:
    """The settings that a running component goes on with: those of `before`, with the fields `live` of `wanted`."""
    return before.model_copy(update={name: getattr(wanted, name) for name in live})


def changes(before: S, wanted: S, live: Collection[str], *, besides: Collection[str] = ()) -> list[str]:
    """What differs, a line each, by its place in the file; the fields `besides` are told by somebody else."""
    lines: list[str] = []
    for name in type(before).model_fields:
        if name not in besides:
            mark = "" if name in live else f" ({NEEDS_RESTART})"
            found = differences(name, plain(getattr(before, name)), plain(getattr(wanted, name)))
            lines += [f"{line}{mark}" for line in found]
    return lines


def differences(where: str, old: Any, new: Any, join: str = ".") -> list[str]:
    """A line for each value that differs; `join` stands between the keys of a place."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [line for key in keys for line in differences(f"{where}{join}{key}", old.get(key), new.get(key), join)]
    return [] if old == new else [f"{where}: {_shown(old)} → {_shown(new)}"]


def plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def _shown(value: Any) -> str:
    return "none" if value is None or value == {} or value == [] else str(value)
