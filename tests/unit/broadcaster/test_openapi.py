"""What the API's schema says of a pipeline's body."""

from __future__ import annotations

import pytest

from broadcaster.openapi import describe_pipeline
from reelnet.picture_wishes import wishes_of
from reelnet.pipelines import PIPELINES, families_of


@pytest.mark.parametrize("name", PIPELINES)
def test_a_body_has_the_fields_of_every_family(name: str) -> None:
    """One family's fields and files make a body; where a pipeline has two, either does."""
    families = families_of(name)
    for content in describe_pipeline(PIPELINES[name])["requestBody"]["content"].values():
        bodies = content["schema"].get("anyOf", [content["schema"]])
        assert len(bodies) == len(families)
        for family, body in zip(families, bodies, strict=True):
            wishes = kind.model_fields if (kind := wishes_of(family)) else ()
            assert set(body["properties"]) == {"model_id", *family.params.model_fields, *wishes, *family.inputs}
            assert set(family.inputs) <= set(body.get("required", []))
