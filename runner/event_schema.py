"""The lines of a job's stream as JSON Schema, for the API's description."""

from __future__ import annotations

from typing import Any

from reelnet.errors import FailureClass
from reelnet.warnings import CODES

Node = dict[str, Any]
_TEXT: Node = {"type": "string"}
_COUNT: Node = {"type": "integer", "minimum": 0}
_SECONDS: Node = {"type": "number", "minimum": 0}
_SIZE: Node = {**_COUNT, "description": "So many bytes follow the line."}
_WARNING: Node = {
    "type": "object",
    "required": ["code", "message", "parameter"],
    "properties": {"code": {"type": "string", "enum": sorted(CODES)}, "message": _TEXT, "parameter": _TEXT},
}
_FIELDS: dict[str, Node] = {
    "started": {"pixel_steps": _COUNT, "output_pixels": _COUNT},
    "progress": {"stage": _TEXT, "step": _COUNT, "total": _COUNT},
    "preview": {"size": _SIZE, "index": _COUNT, "step": _COUNT, "total": _COUNT},
    "output": {"index": _COUNT, "media_type": _TEXT, "seed": _COUNT, "nsfw": {"type": ["boolean", "null"]}},
    "chunk": {"size": _SIZE},
    "output_end": {"index": _COUNT, "size": _COUNT, "sha256": _TEXT},
    "done": {
        "timings_s": {"type": "object", "additionalProperties": _SECONDS},
        "model_digest": _TEXT,
        "class": _TEXT,
        "versions": {"type": "object", "additionalProperties": _TEXT},
        "warnings": {"type": "array", "items": _WARNING},
    },
    "error": {
        "class": {"type": "string", "enum": [each.value for each in FailureClass]},
        "code": _TEXT,
        "message": _TEXT,
    },
    "tick": {"idle_s": _SECONDS},
}


def event_schema() -> Node:
    """One line, whichever event it is."""
    return {"oneOf": [_line(name, fields) for name, fields in _FIELDS.items()]}


def _line(name: str, fields: Node) -> Node:
    properties = {"event": {"type": "string", "const": name}, **fields}
    return {"type": "object", "required": [*properties], "properties": properties}
