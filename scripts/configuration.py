"""Writes docs/configuration.md from the settings classes; `--check` fails when the committed file differs."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from annotated_types import BaseMetadata
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from broadcaster.settings import BroadcasterSettings
from orchestrator.settings import OrchestratorSettings, SyntheticOptions
from reelnet.settings import ComponentSettings
from runner.settings import RunnerSettings

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "configuration.md"
COMPONENTS: dict[str, type[ComponentSettings]] = {
    "broadcaster": BroadcasterSettings,
    "orchestrator": OrchestratorSettings,
    "runner": RunnerSettings,
}
WRAPPERS: dict[type[BaseModel], str] = {SyntheticOptions: "synthetic"}
"""Sections that stand one key deeper in YAML than in the settings class."""
INTRODUCTION = """\
# Configuration

This page is generated from the settings classes by `scripts/configuration.py`. Do not edit it by hand.

Each component reads one YAML file (`--config FILE`). An environment variable overrides the file, and a flag overrides
both. The variable of the broadcaster's key `http.port` is `REELNET_BROADCASTER_HTTP__PORT`: prefix, key in capitals,
two underscores for each dot. Lists and maps are written there as JSON. An unknown key in a file is an error that names
the nearest known one. `<key>` stands for a name that you choose, `[]` for each entry of a list.

A listener's host has to be a loopback address. Money is text, plain decimal dollars with at most nine decimals.
"""
NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null"}
UNITS = ("B", "KiB", "MiB", "GiB")
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


class Row(NamedTuple):
    """One key: its dotted path, type with bounds, default, and sentence."""

    key: str
    kind: str
    default: str
    text: str


def document() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(component(name, settings) for name, settings in COMPONENTS.items())


def component(name: str, settings: type[ComponentSettings]) -> str:
    """A component's chapter."""
    prefix = str(settings.model_config["env_prefix"])
    lines = [
        "",
        f"## {name}",
        "",
        f"Environment: `{prefix}…`",
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    cells = ((f"`{row.key}`", *row[1:]) for row in rows(settings, "", None))
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join(lines) + "\n"


def rows(model: type[BaseModel], prefix: str, defaults: BaseModel | None) -> Iterator[Row]:
    """A row for each key of a section and of the sections in it; `defaults` is what the section above gives it."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        value = getattr(defaults, name) if defaults is not None else default_of(field)
        inner = section_in(field.annotation)
        default = "" if isinstance(value, BaseModel) else shown(name, value)
        yield Row(key, kind_of(field), default, field.description or "—")
        if inner:
            below, section = inner
            yield from rows(section, f"{key}{below}.", value if isinstance(value, BaseModel) else None)


def default_of(field: FieldInfo) -> Any:
    """The field's default; PydanticUndefined when it has to be given."""
    return field.get_default(call_default_factory=True)


def section_in(annotation: Any) -> tuple[str, type[BaseModel]] | None:
    """The section that an annotation holds, and what stands between the key and its keys: "", "[]", ".<key>"."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        wrapper = WRAPPERS.get(annotation)
        return (f".{wrapper}" if wrapper else "", annotation)
    between = {tuple: "[]", dict: ".<key>"}.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        if found := section_in(argument):
            return between + found[0], found[1]
    return None


def kind_of(field: FieldInfo) -> str:
    """The type in words, with its bounds."""
    return " ".join([words(field.annotation), *bounds(field.metadata)])


def words(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words(arguments[0])
    if origin is Literal:
        return " or ".join(f"`{value}`" if value else "empty" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(words(argument) for argument in arguments)
    if origin is tuple:
        return f"list of {words(arguments[0])}"
    if origin is dict:
        return f"map to {words(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return NAMES.get(annotation, "URL" if "Url" in str(annotation) else "path")


def bounds(metadata: list[Any]) -> Iterator[str]:
    """Bounds among a field's metadata, as `≥ 1`."""
    for item in metadata:
        if isinstance(item, BaseMetadata):
            yield from (
                f"{sign} {value}" for name, sign in BOUNDS.items() if (value := getattr(item, name, None)) is not None
            )


def shown(name: str, value: Any) -> str:
    """A default as YAML would have it; sizes in binary units too."""
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), {}, ""):
        return "none"
    if isinstance(value, tuple):
        return "`[" + ", ".join(str(item) for item in value) + "]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`{_in_units(value) if name.endswith('_bytes') else ''}"


def _in_units(size: int) -> str:
    power = max((p for p in range(len(UNITS)) if size and size >= 1024**p and size % 1024**p == 0), default=0)
    return f" ({size >> 10 * power} {UNITS[power]})"


def main() -> int:
    """Writes the page, or compares it; the exit code."""
    text = document()
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text, "utf-8")
        return 0
    if FILE.exists() and FILE.read_text("utf-8") == text:
        return 0
    print("docs/configuration.md: differs from the settings classes; run `.venv/bin/python scripts/configuration.py`")
    return 1


if __name__ == "__main__":
    sys.exit(main())
