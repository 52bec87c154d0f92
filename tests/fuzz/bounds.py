"""What a stranger's word may be once it is a value: short printable texts, finite numbers, short collections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

from tests.fuzz.engine import require

MOST_CHARS = 256
MOST_SECONDS = 86_400.0
MOST_INTEGER = 2**64 - 1
SIGNED = ".skew_s"
"""Clocks are ahead or behind; every other span of time is not below 0."""


def require_bounded(value: object, most: Sequence[int] = (1000, 64), where: str = "") -> None:
    """Raises FoundError for what is out of bounds at any depth.

    `most`: items of a collection, then of one within it; the last number holds for all that are deeper.
    """
    match value:
        case bool() | bytes() | None:
            pass
        case str():
            require(
                len(value) <= MOST_CHARS and value.isprintable(), f"{where}: {value[:80]!r}, {len(value)} characters"
            )
        case int():
            require(-(2**63) <= value <= MOST_INTEGER, f"{where}: {value.bit_length()} bits")
        case float():
            least = -MOST_SECONDS if where.endswith(SIGNED) else 0
            require(math.isfinite(value) and least <= value <= MOST_SECONDS, f"{where}: {value}")
        case Mapping():
            _require_all([*value.keys(), *value.values()], len(value), most, where)
        case tuple() | list():
            _require_all(value, len(value), most, where)
        case _ if is_dataclass(value):
            for each in fields(value):
                require_bounded(getattr(value, each.name), most, f"{where}.{each.name}")


def _require_all(values: Sequence[object], count: int, most: Sequence[int], where: str) -> None:
    require(count <= most[0], f"{where}: {count} items")
    for value in values:
        require_bounded(value, most[1:] or most, f"{where}[]")
