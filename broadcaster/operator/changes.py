"""What a reload of a broadcaster changes: settings by their place in the file, nodes and keys by name."""

from __future__ import annotations

from broadcaster.keys import ApiKey, Keys
from broadcaster.settings import BroadcasterSettings
from reelnet.operating import changes as reload
from reelnet.operating.changes import differences

LIVE = ("orchestrators", "keys_file", "limits", "catalogue", "default_models", "safety", "selection")
"""What a running broadcaster takes over. The rest belongs to things that are made at the start."""


def changes(before: BroadcasterSettings, wanted: BroadcasterSettings) -> list[str]:
    """What differs, a line each, by its place in the file."""
    nodes = _come_and_gone("orchestrators", before.orchestrators, wanted.orchestrators)
    return [*nodes, *reload.changes(before, wanted, LIVE, besides=("orchestrators",))]


def key_changes(before: Keys, wanted: Keys) -> list[str]:
    """Which keys are new or gone, by id and name; never a key itself."""
    old, new = {key.id: key for key in before.known()}, {key.id: key for key in wanted.known()}
    lines = [f"keys: {_told(old[key])} is revoked" for key in old if key not in new]
    lines += [f"keys: {_told(new[key])} is new" for key in new if key not in old]
    for key in old.keys() & new.keys():
        was, now = old[key], new[key]
        lines += differences(f"keys: {_told(was)} name", was.name, now.name)
        lines += differences(f"keys: {_told(was)} safety", was.safety or None, now.safety or None)
    return lines


def _told(key: ApiKey) -> str:
    return key.id if key.name == key.id else f"{key.id} ({key.name})"


def _come_and_gone(where: str, before: tuple[str, ...], wanted: tuple[str, ...]) -> list[str]:
    gone = [f"{where}: {name} is not in the pool any more" for name in before if name not in wanted]
    return gone + [f"{where}: {name} is new" for name in wanted if name not in before]
