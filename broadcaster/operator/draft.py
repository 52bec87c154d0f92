"""The first configuration file of a broadcaster, with a comment on everything that may be changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Draft:
    """What a file is drafted from. Folders and files are named if they were chosen."""

    name: str
    orchestrators: tuple[str, ...] = ()
    home: Path | None = None
    keys_file: Path | None = None


def draft_text(draft: Draft) -> str:
    """The file."""
    return "\n".join([*_head(draft), *_nodes(draft), *_keys(draft), *_tail()])


def _head(draft: Draft) -> list[str]:
    home = [f"home: {_text(str(draft.home))} # state of all components: keys, journal, results"] if draft.home else []
    return [
        "# A broadcaster. `broadcaster doctor --config FILE` checks it, `broadcaster serve --config FILE` runs it.",
        "# After a change: `broadcaster reload --config FILE`. Every key and its default: docs/configuration.md",
        "",
        f"name: {_text(draft.name)} # names the state folder",
        *home,
        "http: {host: 127.0.0.1, port: 9935} # where apps reach it; loopback only, a proxy or a tunnel leads here",
        "metrics: {host: 127.0.0.1, port: 5935} # /metrics, /livez, /readyz",
        "",
    ]


def _nodes(draft: Draft) -> list[str]:
    lines = [
        "# The nodes of the pool: host:port#id, as a node logs it when it serves. The id says who has to answer there.",
    ]
    if not draft.orchestrators:
        return [*lines, "orchestrators: []", "#  - 127.0.0.1:8935#…", ""]
    return [*lines, "orchestrators:", *(f"  - {_text(address)}" for address in draft.orchestrators), ""]


def _keys(draft: Draft) -> list[str]:
    if draft.keys_file:
        return [
            f"keys_file: {_text(str(draft.keys_file))} # `broadcaster keys add NAME` and `revoke NAME` change it",
            "",
        ]
    return ["# keys_file: /etc/reelnet/keys # who may call the API; absent: whoever reaches the port", ""]


def _tail() -> list[str]:
    return [
        "# What a job may cost at most, dollars by pipeline, and how long it may take, seconds.",
        "limits:",
        "  drain_s: 600 # what running jobs get when the broadcaster stops; keep systemd's TimeoutStopSec above it",
        '#  price: {text-to-image: "0.01"}',
        "#  deadline_s: {image-to-video: 1200}",
        "",
    ]


def _text(text: str) -> str:
    """A string as YAML reads it, whatever it holds: JSON's is one."""
    return json.dumps(text, ensure_ascii=False)
