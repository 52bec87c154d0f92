"""What a reload of a node changes; models are told apart by their names."""

from __future__ import annotations

from orchestrator.settings import ModelSettings, OrchestratorSettings
from reelnet.operating import changes as reload
from reelnet.operating.changes import differences, plain, taken_over

LIVE = ("models", "broadcasters", "limits", "image")
"""What a running node takes over. The rest belongs to things that are made at the start."""


def checked(before: OrchestratorSettings, wanted: OrchestratorSettings) -> OrchestratorSettings:
    """The settings that a running node goes on with."""
    return taken_over(before, wanted, LIVE)


def changes(before: OrchestratorSettings, wanted: OrchestratorSettings) -> tuple[str, ...]:
    """What differs, a line each, by its place in the file."""
    lines = _models(before.models, wanted.models)
    return (*lines, *reload.changes(before, wanted, LIVE, besides=("models",)))


def _models(before: tuple[ModelSettings, ...], wanted: tuple[ModelSettings, ...]) -> list[str]:
    old, new = {m.model_id: m for m in before}, {m.model_id: m for m in wanted}
    lines = [f"models: {name} is not served any more" for name in old.keys() - new.keys()]
    lines += [f"models: {name} is new" for name in new.keys() - old.keys()]
    for name in old.keys() & new.keys():
        lines += differences(f"models: {name}", plain(old[name]), plain(new[name]), " ")
    return sorted(lines)
