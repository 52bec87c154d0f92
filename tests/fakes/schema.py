"""Whether a value is as a JSON Schema says, as far as the API's description uses it."""

from __future__ import annotations

from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def faults(value: Any, schema: dict[str, Any], document: dict[str, Any], at: str = "") -> list[str]:
    """What is wrong, each with its place; nothing for a value that is as it is described."""
    if "$ref" in schema:
        node: Any = document
        for step in schema["$ref"].removeprefix("#/").split("/"):
            node = node[step]
        return faults(value, node, document, at)
    for key, wanted in (("oneOf", 1), ("anyOf", None)):
        if key in schema:
            fit = sum(not faults(value, branch, document, at) for branch in schema[key])
            return [] if fit == wanted or (wanted is None and fit) else [f"{at}: fits {fit} of {key}"]
    return [*_plain(value, schema, at), *_inside(value, schema, document, at)]


def _plain(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    named = schema.get("type", [])
    types = [named] if isinstance(named, str) else named
    found = []
    if types and not any(
        isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in types
    ):
        found.append(f"{at}: {value!r} is no {types}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{at}: {value!r} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    return found


def _inside(value: Any, schema: dict[str, Any], document: dict[str, Any], at: str) -> list[str]:
    found: list[str] = []
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            found += faults(item, schema["items"], document, f"{at}/{index}")
    if isinstance(value, dict):
        found += [f"{at}: {name} is missing" for name in schema.get("required", []) if name not in value]
        others = schema.get("additionalProperties", True)
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, others)
            if inner is False:
                found.append(f"{at}: {name} is unknown")
            elif isinstance(inner, dict):
                found += faults(item, inner, document, f"{at}/{name}")
    return found
