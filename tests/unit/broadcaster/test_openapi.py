"""What the API's description says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from broadcaster.job_stream import News
from broadcaster.openapi import KEYWORDS, document
from broadcaster.openapi_schemas import EVENTS, SCHEMAS
from reelnet.jobs import Preview, Progress, Queued, Started
from reelnet.picture_wishes import wish_names
from reelnet.pipelines import PIPELINES, families_of
from tests.fakes.pool import sse_events
from tests.fakes.schema import faults

DOCUMENT = document()
BODIES = {family.params.__name__: family for name in PIPELINES for family in families_of(name)}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_body_has_the_fields_of_every_family(name: str) -> None:
    """One family's fields and files make a body; where a pipeline has two, either does."""
    families = families_of(name)
    for content in DOCUMENT["paths"][f"/{name}"]["post"]["requestBody"]["content"].values():
        refs = [body["$ref"] for body in content["schema"].get("anyOf", [content["schema"]])]
        assert refs == [f"#/components/schemas/{family.params.__name__}" for family in families]


@pytest.mark.parametrize("name", BODIES)
def test_a_familys_body_is_its_parameters_and_files(name: str) -> None:
    """All of them, those that have to be there named; the others may be null."""
    family, body = BODIES[name], DOCUMENT["components"]["schemas"][name]
    assert set(body["properties"]) == {"model_id", *family.params.model_fields, *wish_names(family), *family.inputs}
    required = {field for field, info in family.params.model_fields.items() if info.is_required()}
    assert set(body.get("required", [])) == {*required, *family.inputs}
    assert not faults(
        {
            **dict.fromkeys(family.params.model_fields),
            **dict.fromkeys(required, "x"),
            **dict.fromkeys(family.inputs, "x"),
        },
        body,
        DOCUMENT,
    )


def parts(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema in a schema."""
    if isinstance(node, list):
        for item in node:
            yield from parts(item)
    elif isinstance(node, dict):
        yield node
        for key, value in node.items():
            yield from parts(list(value.values()) if key == "properties" else value)


def test_no_key_is_this_programs_own() -> None:
    """Only JSON Schema's: readers of the file know no other; an integer's bounds are integers."""
    for part in parts([schema for name, schema in DOCUMENT["components"]["schemas"].items() if name in BODIES]):
        assert set(part) <= {*KEYWORDS, "properties"}
        if part.get("type") in ("integer", ["integer", "null"]):
            bounds = [part[key] for key in ("minimum", "maximum", "multipleOf") if key in part]
            assert all(isinstance(bound, int) for bound in bounds), part


def test_every_reference_leads_somewhere() -> None:
    """And every failure that is named has a description."""
    for part in parts(DOCUMENT):
        if ref := part.get("$ref"):
            node: Any = DOCUMENT
            for step in ref.removeprefix("#/").split("/"):
                node = node[step]
            assert node


def test_a_key_is_asked_for_but_where_it_is_not() -> None:
    """As the guard has it."""
    assert DOCUMENT["security"] == [{"key": []}, {}]
    assert DOCUMENT["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    open_paths = {path for path, methods in DOCUMENT["paths"].items() if methods.get("get", {}).get("security") == []}
    assert open_paths == {"/media/{name}", "/healthz"}


async def test_events_are_as_they_are_described() -> None:
    """What of a job's events the stream itself makes; the others are whole answers."""
    news = News()
    for event in (Queued(1, 2.5), Started(False), Progress("denoise", 1, 2), Preview(b"\xff", 0, 1, 2)):
        news.hear(event)
    told = [sse_events((await news.next() or b"").decode())[0] for _ in range(4)]
    assert {name for name, _ in told} == EVENTS.keys() - {"job", "result", "error"}
    for name, data in told:
        assert not faults({"event": name, "data": data}, SCHEMAS["Event"], DOCUMENT), (name, data)
        assert faults({"event": name, "data": {}}, SCHEMAS["Event"], DOCUMENT)
