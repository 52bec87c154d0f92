"""Writes the generated part of docs/runner.md from the pipelines' parameters; `--check` fails when it differs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import BaseMetadata, MaxLen, MultipleOf
from pydantic.fields import FieldInfo

from reelnet.pipelines import FAMILIES, Pipeline, families_of

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "runner.md"
BEGIN = "<!-- parameters: written by scripts/runner_pages.py from proto/reelnet/pipelines.py; do not edit -->\n"
END = "<!-- end of parameters -->\n"
NAMES = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    dict: "map to number",
    Fraction: "number, or text as 30000/1001",
}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def document(page: str) -> str:
    """The page with its generated part written anew. Raises ValueError when its marks are missing."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{FILE.name}: the marks around the generated part are missing")
    return before + BEGIN + "".join(chapter(pipeline) for pipeline in FAMILIES.values()) + "\n" + END + after


def title(pipeline: Pipeline) -> str:
    """A chapter's title: the pipeline, and its family where there is more than one."""
    return pipeline.name if len(families_of(pipeline.name)) == 1 else f"{pipeline.name} ({pipeline.family})"


def chapter(pipeline: Pipeline) -> str:
    """A pipeline's parameters as a table, as one family has them."""
    inputs = f" Input: `{'`, `'.join(pipeline.inputs)}`." if pipeline.inputs else ""
    head = ["", f"### {title(pipeline)}", "", f"{_first_line(pipeline)} Schema `{pipeline.schema}`.{inputs}", ""]
    table = ["| parameter | type | default | since | meaning |", "|---|---|---|---|---|"]
    rows = (row(name, field) for name, field in pipeline.params.model_fields.items())
    return "\n".join([*head, *table, *rows]) + "\n"


def row(name: str, field: FieldInfo) -> str:
    """A parameter's line."""
    extra = field.json_schema_extra
    since = extra["since"] if isinstance(extra, dict) and "since" in extra else 1
    kind = " ".join([words(field.annotation), *bounds(field.metadata)])
    cells = (f"`{name}`", kind, default(field), str(since), field.description or "—")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def words(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" if value else "empty" for value in arguments)
    if origin is dict:
        return NAMES[dict]
    if arguments:
        return " or ".join(words(argument) for argument in arguments)
    return NAMES.get(annotation, str(annotation))


def bounds(metadata: list[Any]) -> Iterator[str]:
    """Bounds among a field's metadata, as `≥ 1`."""
    for item in metadata:
        if isinstance(item, MultipleOf):
            yield f"multiple of {item.multiple_of}"
        elif isinstance(item, MaxLen):
            yield f"at most {item.max_length} long"
        elif isinstance(item, BaseMetadata):
            yield from (
                f"{sign} {value}" for name, sign in BOUNDS.items() if (value := getattr(item, name, None)) is not None
            )


def default(field: FieldInfo) -> str:
    """A default as JSON would have it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else "empty"


def _first_line(pipeline: Pipeline) -> str:
    return (pipeline.params.__doc__ or "").strip().splitlines()[0]


def main() -> int:
    """Writes the part, or compares it; the exit code."""
    page = FILE.read_text("utf-8")
    text = document(page)
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text, "utf-8")
        return 0
    if page == text:
        return 0
    print("docs/runner.md: differs from the parameters; run `.venv/bin/python scripts/runner_pages.py`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
