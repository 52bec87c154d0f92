"""What a reload changes: of two configurations, which differences apply at once and which need a restart."""

from __future__ import annotations

from typing import Any

from orchestrator.settings import ModelSettings, OrchestratorSettings

LIVE = ("models", "broadcasters", "limits", "image")
"""What a running node takes over. The rest belongs to things that are made at the start."""
NEEDS_RESTART = "needs a restart"
Tree = dict[str, Any]


def checked(before: OrchestratorSettings, wanted: OrchestratorSettings) -> OrchestratorSettings:
    """The settings that a running node goes on with: those of `before`, with what applies at once from `wanted`."""
    return before.model_copy(update={name: getattr(wanted, name) for name in LIVE})


def changes(before: OrchestratorSettings, wanted: OrchestratorSettings) -> tuple[str, ...]:
    """What differs, a line each, by its place in the file."""
    lines = _models(before.models, wanted.models)
    for name in type(before).model_fields:
        if name != "models":
            old, new = _plain(getattr(before, name)), _plain(getattr(wanted, name))
            mark = "" if name in LIVE else f" ({NEEDS_RESTART})"
            lines += [f"{line}{mark}" for line in _differences(name, old, new)]
    return tuple(lines)


def _models(before: tuple[ModelSettings, ...], wanted: tuple[ModelSettings, ...]) -> list[str]:
    old, new = {m.model_id: m for m in before}, {m.model_id: m for m in wanted}
    lines = [f"models: {name} is not served any more" for name in old.keys() - new.keys()]
    lines += [f"models: {name} is new" for name in new.keys() - old.keys()]
    for name in old.keys() & new.keys():
        lines += _differences(f"models: {name}", _plain(old[name]), _plain(new[name]))
    return sorted(lines)


def _differences(where: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        join = " " if where.startswith("models: ") else "."
        return [
            line
            for key in dict.fromkeys([*old, *new])
            for line in _differences(f"{where}{join}{key}", old.get(key), new.get(key))
        ]
    return [] if old == new else [f"{where}: {_shown(old)} → {_shown(new)}"]


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else _listed(value)


def _listed(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _shown(value: Any) -> str:
    return "none" if value is None or value == {} or value == [] else str(value)
