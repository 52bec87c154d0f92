"""What the API answers, as JSON Schema: results, events, failures, the pool."""

from __future__ import annotations

from typing import Any

from broadcaster.error_codes import CODES
from reelnet.errors import FailureClass
from reelnet.metadata import JPEG
from reelnet.warnings import CODES as WARNINGS

Node = dict[str, Any]
TEXT: Node = {"type": "string"}
COUNT: Node = {"type": "integer", "minimum": 0}
NUMBER: Node = {"type": "number"}
YES_OR_NO: Node = {"type": "boolean"}


def ref(name: str) -> Node:
    """A schema of the components, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(optional: Node | None = None, **required: Node) -> Node:
    """An object that has these fields, and may have others."""
    return {"type": "object", "required": [*required], "properties": {**required, **(optional or {})}}


def each(item: Node) -> Node:
    """A list."""
    return {"type": "array", "items": item}


def by_name(value: Node) -> Node:
    """An object from names to values."""
    return {"type": "object", "additionalProperties": value}


def _said(description: str, schema: Node = TEXT) -> Node:
    return {**schema, "description": description}


def _event(name: str, data: Node) -> Node:
    return record(event={"type": "string", "const": name}, data=data)


EVENTS: dict[str, Node] = {
    "job": record(id=TEXT),
    "queued": record(position=_said("Places before it; 0 is next.", COUNT), eta_s=NUMBER),
    "started": record(cold=_said("Whether the model is loaded first.", YES_OR_NO)),
    "progress": record(stage=TEXT, step=COUNT, total=COUNT),
    "preview": record(
        index=COUNT,
        step=COUNT,
        total=COUNT,
        media_type={"type": "string", "const": JPEG},
        data={"type": "string", "contentEncoding": "base64"},
    ),
    "result": ref("Answer"),
    "error": ref("Failure"),
}
"""The data of a stream's events, by name."""
SCHEMAS: dict[str, Node] = {
    "Answer": record(images=each(ref("Image")), warnings=each(ref("Warning")), job=ref("Job")),
    "Image": record(
        url={"type": "string", "format": "uri"},
        seed=COUNT,
        nsfw=YES_OR_NO,
        checked=_said("Whether a safety checker has looked.", YES_OR_NO),
    ),
    "Warning": record(
        code={"type": "string", "enum": sorted(WARNINGS)},
        message=TEXT,
        parameter=_said("A parameter or an input; may be empty."),
    ),
    "Job": record(
        id=TEXT,
        pipeline=TEXT,
        model=TEXT,
        model_digest=TEXT,
        node=TEXT,
        attempts=COUNT,
        price=_said("Dollars, as a decimal."),
        timings_s=by_name(NUMBER),
        made_with=by_name(TEXT),
    ),
    "Event": {"oneOf": [ref(f"{name.capitalize()}Event") for name in EVENTS]},
    **{f"{name.capitalize()}Event": _event(name, data) for name, data in EVENTS.items()},
    "Failure": record(
        detail={"oneOf": [record(msg=TEXT), each(ref("InvalidParameter"))]},
        error=ref("Error"),
    ),
    "InvalidParameters": record(detail=each(ref("InvalidParameter")), error=ref("Error")),
    "InvalidParameter": record(loc=each({"type": ["string", "integer"]}), msg=TEXT, type=TEXT),
    "Error": record(
        {
            "retry_after_s": _said("Seconds until asking again is worth it.", NUMBER),
            "request_id": TEXT,
            "job_id": _said("Where there is a job."),
        },
        message=TEXT,
        **{"class": {"type": "string", "enum": [failure.value for failure in FailureClass]}},
        code=_said(f"A stable word: {', '.join(CODES)}; or a file's, a feature's or a node's own."),
    ),
    "Pool": record(offers=each(ref("Offer")), nodes=each(ref("Node"))),
    "Offer": record(
        pipeline=TEXT,
        model=TEXT,
        nodes=_said("How many serve it.", COUNT),
        features=by_name(COUNT),
        loras=by_name(by_name(COUNT)),
    ),
    "Node": record(
        node=TEXT,
        address=TEXT,
        up=YES_OR_NO,
        reason=_said("Why it is not up; empty where it is."),
        clock_skew_s={"type": ["number", "null"]},
        serves=each(ref("Capability")),
    ),
    "Capability": record(
        pipeline=TEXT,
        model=TEXT,
        schema=_said("The parameters' schema, pipeline/family@version."),
        digest=TEXT,
        licence=record(id=TEXT, commercial={"type": "string", "enum": ["yes", "no", "conditional", "unknown"]}),
        price=by_name(TEXT),
        slots=_said("Jobs that run at once.", COUNT),
        features=each(TEXT),
        loras=by_name(TEXT),
    ),
    "Health": record(status={"type": "string", "const": "OK"}, nodes_up=COUNT),
}
"""By name: what the components of the document have beside the parameters."""
