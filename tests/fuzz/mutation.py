"""Hostile changes of good values: of protobuf messages, of JSON, of bytes, each by what it knows of their structure."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

INTEGERS = (0, 1, 2, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (math.nan, math.inf, -math.inf, -1.0, -0.0, 1e308, 5e-324, 86_401.0)
TEXTS = ("", "\0", "a\x1b]0;b", "\u202e", "²", "٣", "9" * 400, "../../x", "text-to-image/sd@" + "9" * 200, "x" * 300)
LONG = ("y" * 20_000, "😀" * 5000, "z" * 200_000)
MOST_REPEATS = 2000
SHORT = 400
"""Only what is written in fewer characters, or bytes, is repeated so often."""
BROKEN_JSON = (
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"NaN",
    b"1e999",
    b'"\\ud800"',
    b"9" * 5000,
    b"\xff\xfe",
    b"",
    b"null",
    b"[]",
)


def message(rng: random.Random, good: Message) -> bytes:
    """A message's bytes after some changes of its fields, and now and then of the bytes themselves."""
    for _ in range(rng.randint(1, 4)):
        change(rng, good)
    data = good.SerializeToString()
    return damaged(rng, data) if rng.random() < 0.2 else data


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes that are cut, turned, doubled or filled."""
    at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at],
        lambda: data[at:],
        lambda: data[:at] + rng.randbytes(rng.randint(1, 16)) + data[at:],
        lambda: data[:at] + bytes((rng.randrange(256),)) + data[at + 1 :],
        lambda: data[:end] + data[at:end] * rng.randint(1, 8) + data[end:],
        lambda: data[:at] + bytes((rng.choice((0, 0x7F, 0x80, 0xFF)),)) * rng.randint(1, 5000) + data[end:],
        lambda: rng.randbytes(rng.randint(0, 64)),
    )
    return rng.choice(ways)()


def document(rng: random.Random, good: Any) -> bytes:
    """JSON after some changes of its values and keys, and now and then of the text itself."""
    if rng.random() < 0.1:
        return rng.choice(BROKEN_JSON)
    value = json.loads(json.dumps(good))
    for _ in range(rng.randint(1, 4)):
        value = _changed(rng, value)
    data = json.dumps(value).encode()
    return damaged(rng, data) if rng.random() < 0.1 else data


def change(rng: random.Random, good: Message) -> None:
    """Changes one field, at any depth."""
    field = rng.choice(good.DESCRIPTOR.fields)
    if field.message_type and field.message_type.GetOptions().map_entry:
        _change_map(rng, getattr(good, field.name), field)
    elif field.is_repeated:
        _change_list(rng, getattr(good, field.name), field)
    elif field.message_type:
        _change_message(rng, good, field)
    else:
        setattr(good, field.name, _scalar(rng, field))


def _change_message(rng: random.Random, good: Message, field: FieldDescriptor) -> None:
    if rng.random() < 0.15:
        good.ClearField(field.name)
    else:
        inner = getattr(good, field.name)
        inner.SetInParent()
        if inner.DESCRIPTOR.fields:
            change(rng, inner)


def _change_list(rng: random.Random, items: Any, field: FieldDescriptor) -> None:
    count = rng.choice((1, 1, 1, 3, MOST_REPEATS))
    if not items or rng.random() < 0.3:
        if field.message_type:
            for _ in range(min(count, 100)):
                items.add()
        else:
            items.extend([_scalar(rng, field, most=2 if count > 3 else 3) for _ in range(count)])
    elif rng.random() < 0.2:
        del items[:]
    elif field.message_type:
        change(rng, rng.choice(items))
        items.extend([items[0]] * (count if items[0].ByteSize() < SHORT else min(count, 20)))
    else:
        items[rng.randrange(len(items))] = _scalar(rng, field)


def _change_map(rng: random.Random, items: Any, field: FieldDescriptor) -> None:
    assert field.message_type
    key, value = field.message_type.fields
    for _ in range(rng.choice((1, 1, 3, MOST_REPEATS))):
        items[_scalar(rng, key, most=2) + str(rng.random())] = _scalar(rng, value, most=2)


def _scalar(rng: random.Random, field: FieldDescriptor, most: int = 3) -> Any:
    """A hostile value of a field's type; texts of up to `most` are short, else long ones too."""
    kinds = FieldDescriptor
    match field.cpp_type:
        case kinds.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case kinds.CPPTYPE_DOUBLE | kinds.CPPTYPE_FLOAT:
            return rng.choice(FLOATS)
        case kinds.CPPTYPE_UINT32 | kinds.CPPTYPE_INT32:
            return rng.choice([n for n in INTEGERS if n < 2**31])
        case kinds.CPPTYPE_UINT64 | kinds.CPPTYPE_INT64:
            return rng.choice(INTEGERS)
    text = rng.choice(TEXTS if most < 3 or rng.random() < 0.8 else LONG)
    return text if field.type == kinds.TYPE_STRING else rng.choice((text.encode(), rng.randbytes(rng.randrange(200))))


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        return _changed_object(rng, value)
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        other = value[at] if rng.random() < 0.3 else _changed(rng, value[at])
        count = rng.choice((0, 1, 1, 2, *((300, MOST_REPEATS) if len(repr(other)) < SHORT else (3,))))
        return [*value[:at], *_repeated(rng, other, count), *value[at + 1 :]]
    return _hostile(rng)


def _repeated(rng: random.Random, value: Any, count: int) -> list[Any]:
    """Equal values, or objects that differ in one text: a name may be what they are kept by."""
    texts = sorted(key for key, text in value.items() if isinstance(text, str)) if isinstance(value, dict) else []
    if not texts or rng.random() < 0.3:
        return [value] * count
    key = rng.choice(texts)
    return [value | {key: f"{value[key]}{i}"} for i in range(count)]


def _changed_object(rng: random.Random, value: dict[str, Any]) -> dict[str, Any]:
    key = rng.choice(sorted(value))
    rest = {k: v for k, v in value.items() if k != key}
    way = rng.random()
    if way < 0.1:
        return rest
    if way < 0.2:
        return value | {f"{rng.choice(TEXTS)}{i}": i for i in range(rng.choice((1, 50, 800, 20_000)))}
    return rest | {key: _changed(rng, value[key])}


def _hostile(rng: random.Random) -> Any:
    deep: Any = []
    for _ in range(rng.choice((1, 50, 400))):
        deep = [deep]
    simple = [None, True, *INTEGERS, -5, 2**70, 10**300, *FLOATS, *TEXTS, "\ud800", *LONG, {}, [], deep, {"": {}}]
    return rng.choice([*simple, {str(i): i for i in range(300)}, [0] * MOST_REPEATS])
