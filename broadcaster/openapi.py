"""What the API's schema says of a pipeline: its body from the parameter models, its answers."""

from __future__ import annotations

import copy
from typing import Any

from reelnet.parameters import VIDEO
from reelnet.picture_formats import NAMES
from reelnet.picture_wishes import wishes_of
from reelnet.pipelines import Pipeline, families_of
from reelnet.warnings import CODES

ERROR = {
    "type": "object",
    "properties": {
        "detail": {"type": "object", "properties": {"msg": {"type": "string"}}},
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "class": {"type": "string"},
                "code": {"type": "string"},
                "retry_after_s": {"type": "number"},
            },
        },
    },
}
IMAGES = {
    "type": "object",
    "required": ["images", "warnings"],
    "properties": {
        "images": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["url", "seed", "nsfw"],
                "properties": {
                    "url": {"type": "string", "format": "uri"},
                    "seed": {"type": "integer"},
                    "nsfw": {"type": "boolean"},
                    "checked": {"type": "boolean", "description": "Whether a safety checker has looked."},
                },
            },
        },
        "warnings": {
            "type": "array",
            "description": "What of the job is not done as it was asked; docs/api.md has the codes.",
            "items": {
                "type": "object",
                "required": ["code", "message", "parameter"],
                "properties": {
                    "code": {"type": "string", "enum": sorted(CODES)},
                    "message": {"type": "string"},
                    "parameter": {"type": "string", "description": "A parameter or an input; may be empty."},
                },
            },
        },
        "job": {"type": "object"},
    },
}
_MEANINGS = {
    400: "The request cannot be read.",
    401: "The API key is missing or unknown.",
    413: "The request or its picture is too large.",
    415: "The body's or the picture's format is none that is taken.",
    422: "A parameter is not valid.",
    429: "The API key has as many jobs under way as it may; Retry-After says when to ask again.",
    500: "Every node that was tried failed.",
    503: "No node has a free place; Retry-After says when to ask again.",
    504: "The job was not done by its deadline.",
}


def error_schemas() -> dict[int | str, dict[str, Any]]:
    """The failures that every pipeline's route can answer."""
    content = {"application/json": {"schema": ERROR}}
    return {status: {"description": text, "content": content} for status, text in _MEANINGS.items()}


def describe_pipeline(pipeline: Pipeline) -> dict[str, Any]:
    """The request body and success answer of a pipeline's route. Where it has several families, the model decides."""
    bodies = [_body(family) for family in families_of(pipeline.name)]
    schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
    kinds = ["multipart/form-data"] if pipeline.inputs else ["application/json", "multipart/form-data"]
    answer = {"application/json": {"schema": IMAGES}, "text/event-stream": {"schema": {"type": "string"}}}
    return {
        "requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}},
        "responses": {"200": {"description": "The results.", "content": answer}},
    }


def _body(pipeline: Pipeline) -> dict[str, Any]:
    """The fields and files of a request for one family's models."""
    schema = copy.deepcopy(pipeline.params.model_json_schema())
    model_id = {"type": "string", "default": "", "description": "Hugging Face id; empty: the pipeline's default."}
    schema["properties"] = {"model_id": model_id, **schema["properties"]}
    if kind := wishes_of(pipeline):
        schema["properties"] |= kind.model_json_schema()["properties"]
    for name in pipeline.inputs:
        kinds = "MP4, QuickTime, WebM or Matroska." if name == VIDEO else f"{', '.join(NAMES.values())}."
        schema["properties"][name] = {"type": "string", "format": "binary", "description": kinds}
    if pipeline.inputs:
        schema["required"] = [*schema.get("required", []), *pipeline.inputs]
    return schema
