"""The API's description: each pipeline's body from the parameter models, and what every route answers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from broadcaster.openapi_schemas import SCHEMAS, ref
from reelnet.parameters import VIDEO
from reelnet.picture_formats import NAMES
from reelnet.picture_wishes import wishes_of
from reelnet.pipelines import PIPELINES, Pipeline, families_of

Node = dict[str, Any]
KEYWORDS = frozenset([
    "type", "enum", "const", "default", "description", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minLength", "maxLength", "pattern", "format", "items", "minItems", "maxItems", "minProperties",
    "maxProperties", "propertyNames", "additionalProperties", "required", "anyOf", "oneOf", "allOf", "$ref",
])  # fmt: skip
"""What of a parameter model's schema is JSON Schema's own; the rest is the models' word to this program."""
MEANINGS = {
    400: "The request or its picture cannot be read.",
    401: "The API key is missing or unknown.",
    403: "A page of another origin, another host's name, or an unsafe result that is withheld.",
    408: "The rest of the body did not come in time.",
    413: "The request or its picture is too large.",
    415: "The type or the encoding of the body, or of its clip, is none that is taken.",
    422: "A parameter is not valid.",
    429: "The API key has as many jobs under way as it may; Retry-After says when to ask again.",
    500: "Every node that was tried failed.",
    503: "No node has a free place; Retry-After says when to ask again.",
    504: "The job was not done by its deadline.",
}
"""The failures that every pipeline's route can answer."""
_MEDIA_KINDS = ("image/png", "image/jpeg", "image/webp", "video/mp4")
_OPEN: Node = {"security": []}
"""Of an operation that needs no key."""
_ABOUT = (
    "A private pool of GPUs behind one address. In JSON, null is an absent value; in a form an empty text is, for what "
    "may be left out. Every answer has X-Request-Id. Each GET can be asked as HEAD. The codes of errors and warnings "
    "are listed in docs/api.md."
)


def document() -> Node:
    """The OpenAPI 3.1 document. Its server is the place where the document lies."""
    jobs = {f"/{pipeline.name}": {"post": _job(pipeline)} for pipeline in PIPELINES.values()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Reelnet broadcaster",
            "version": version("reelnet"),
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "."}],
        "security": [{"key": []}, {}],
        "paths": {**jobs, **_reads()},
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "Asked for where keys_file is set."}
            },
            "headers": {
                "RequestId": {"description": "The request's id, as the log has it.", "schema": {"type": "string"}},
                "RetryAfter": {"description": "Seconds until asking again is worth it.", "schema": {"type": "integer"}},
            },
            "responses": {f"Error{status}": _failure(status, text) for status, text in _ALL_MEANINGS.items()},
            "schemas": {**_bodies(), **SCHEMAS},
        },
    }


_ALL_MEANINGS = {**MEANINGS, 404: "There is no such thing.", 416: "The range begins behind the end."}


def _failure(status: int, description: str) -> Node:
    schema = ref("InvalidParameters" if status == 422 else "Failure")
    headers = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    if status in (429, 503):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    return {"description": description, "headers": headers, "content": {"application/json": {"schema": schema}}}


def _failures(*statuses: int) -> Node:
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in statuses}


def _good(description: str, content: Mapping[str, Node], headers: Mapping[str, Node] | None = None) -> Node:
    named = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}, **(headers or {})}
    return {"description": description, "headers": named, "content": dict(content)}


def _job(pipeline: Pipeline) -> Node:
    """A pipeline's route. Where it has several families, the model decides which body is meant."""
    families = families_of(pipeline.name)
    bodies = [ref(family.params.__name__) for family in families]
    schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
    kinds = ["multipart/form-data"] if pipeline.inputs else ["application/json", "multipart/form-data"]
    answer = {"application/json": {"schema": ref("Answer")}, "text/event-stream": {"schema": ref("Event")}}
    return {
        "operationId": _camel(pipeline.name),
        "summary": " ".join(filter(None, (family.params.__doc__ for family in families))),
        "requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}},
        "responses": {"200": _good("The results; or events, each of this shape.", answer), **_failures(*MEANINGS)},
    }


def _reads() -> Node:
    """What is read."""
    binary = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _MEDIA_KINDS}
    texts = {"schema": {"type": "string"}}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    asked = [
        {"name": header, "in": "header", "required": False, "description": why, **texts}
        for header, why in {
            "Range": "One range of bytes. What is malformed, and several at once, are ignored.",
            "If-None-Match": "The ETag of an answer that is kept: 304 where it still holds.",
        }.items()
    ]
    media = {"ETag": texts, "Content-Disposition": texts, "Accept-Ranges": texts}
    return {
        "/media/{name}": {
            "get": {
                "operationId": "readMedia",
                "summary": "A result's bytes.",
                "parameters": [name, *asked],
                **_OPEN,
                "responses": {
                    "200": _good("The file.", binary, media),
                    "206": _good("The part that was asked for.", binary, {**media, "Content-Range": texts}),
                    "304": {"description": "It is the one that the client has."},
                    **_failures(404, 416),
                },
            }
        },
        "/models": {
            "get": {
                "operationId": "listModels",
                "summary": "What the pool serves, and where.",
                "responses": {"200": _good("The pool.", _json("Pool")), **_failures(401, 403)},
            }
        },
        "/healthz": {
            "get": {
                "operationId": "readHealth",
                "summary": "Whether jobs are taken.",
                **_OPEN,
                "responses": {"200": _good("They are.", _json("Health")), **_failures(403, 503)},
            }
        },
    }


def _json(name: str) -> Node:
    return {"application/json": {"schema": ref(name)}}


def _bodies() -> Node:
    """By the name of each family's parameter model: the fields and files of a request for its models."""
    families = [family for name in PIPELINES for family in families_of(name)]
    return {family.params.__name__: _body(family) for family in families}


def _body(pipeline: Pipeline) -> Node:
    schema = clean(pipeline.params.model_json_schema())
    required: list[str] = schema.get("required", [])
    wishes = clean(kind.model_json_schema())["properties"] if (kind := wishes_of(pipeline)) else {}
    told = schema["properties"] | wishes
    fields = {name: field if name in required else _or_null(field) for name, field in told.items()}
    model_id = {"type": ["string", "null"], "default": "", "description": "Its Hugging Face id; empty: the default."}
    files = {name: _file(name) for name in pipeline.inputs}
    schema["properties"] = {"model_id": model_id, **fields, **files}
    if needed := [*required, *pipeline.inputs]:
        schema["required"] = needed
    return schema


def _file(name: str) -> Node:
    kinds = "MP4, QuickTime, WebM or Matroska." if name == VIDEO else f"{', '.join(NAMES.values())}."
    return {"type": "string", "format": "binary", "description": kinds}


def clean(schema: Node) -> Node:
    """A schema of pydantic's without keys that are none of JSON Schema's; the bounds of integers are integers."""
    kept: Node = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: clean(field) for name, field in value.items()}
        elif key in KEYWORDS:
            kept[key] = _cleaned(value)
    if kept.get("type") == "integer":
        kept = {key: int(value) if isinstance(value, float) else value for key, value in kept.items()}
    return kept


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return clean(value)
    return [_cleaned(item) if isinstance(item, dict) else item for item in value] if isinstance(value, list) else value


def _or_null(field: Node) -> Node:
    """A field's schema that takes null too."""
    if "anyOf" in field:
        there = field["anyOf"] if {"type": "null"} in field["anyOf"] else [*field["anyOf"], {"type": "null"}]
        return {**field, "anyOf": there}
    nullable = {**field, "type": [field["type"], "null"]}
    if "enum" in field:
        nullable["enum"] = [*field["enum"], None]
    return nullable


def _camel(name: str) -> str:
    first, *rest = name.split("-")
    return first + "".join(word.capitalize() for word in rest)
