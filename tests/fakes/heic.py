"""HEIC pictures put together by hand: one of two HEVC pictures in the boxes of ISO/IEC 23008-12.

x265 coded the two once: now and then it writes a header of memory that nobody wrote.
"""

from __future__ import annotations

import base64
import struct

from PIL import Image

_PLAIN = (
    (
        "AQFgAAAAkAAAAAAAHvAA/P34+AAADwMgAAEAGEABDAH//wFgAAADAJAAAAMAAAMAHpWYCSEAAQAoQgEBAWAAAAMAkAAAAwAAAwAeoCCBBZZW"
        "aSTK5sCAAAADAIAAAAMAhCIAAQAGRAHBcaES"
    ),
    "AAAAFCgBrxeA5vJf5iO/4OQy4d/56enw",
)
_MARKED = (
    (
        "AQFgAAAAkAAAAAAAHvAA/P34+AAADwMgAAEAGEABDAH//wFgAAADAJAAAAMAAAMAHpWYCSEAAQAoQgEBAWAAAAMAkAAAAwAAAwAeoDCBBZZW"
        "aSTK5sCAAAADAIAAAAMAhCIAAQAGRAHBcaES"
    ),
    (
        "AAAAZCgBrxeAxJRrYb/8rfyGoipf3zPo2LyX5JSpFPxOK6A3QG963PEmMwduveqkLoUx/5EhbZMeEaHjMkxi14f0ZPmB+Vv88FJGBgzqhjgP"
        "aGF9bC637EUHDAuRqC/nxPO8IZ9teHg="
    ),
)
"""The decoder's configuration and the picture, as MP4 has them: one colour of 64 × 64, and `marked`, at qp 24."""
ONE_COLOUR = (200, 120, 80)


def marked() -> Image.Image:
    """Smooth greys, 96 × 64, with a red corner at the upper left: every orientation looks different."""
    picture = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    picture.paste((255, 0, 0), (0, 0, 32, 32))
    return picture


def heic(*, plain: bool = False, turned: int = 0, mirrored: int | None = None, colour: bytes = b"") -> bytes:
    """`marked` as HEIC, or the picture of ONE_COLOUR.

    `turned`: quarter turns to the left; `mirrored`: HEIF's axis; `colour`: a `colr` body.
    """
    config, coded = (base64.b64decode(part) for part in (_PLAIN if plain else _MARKED))
    size = (64, 64) if plain else (96, 64)
    properties = [_box(b"hvcC", config), _full(b"ispe", struct.pack(">II", *size))]
    if colour:
        properties.append(_box(b"colr", colour))
    if turned:
        properties.append(_box(b"irot", bytes((turned,))))
    if mirrored is not None:
        properties.append(_box(b"imir", bytes((mirrored,))))
    uses = b"".join(bytes((0x80 | n,)) for n in range(1, len(properties) + 1))
    links = _full(b"ipma", struct.pack(">IHB", 1, 1, len(properties)) + uses)
    iprp = _box(b"iprp", _box(b"ipco", b"".join(properties)) + links)
    item = _full(b"infe", struct.pack(">HH4s", 1, 0, b"hvc1") + b"\0", version=2)
    head = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
    place = 0
    for _ in range(2):  # the second time it is known where the picture lies
        iloc = _full(b"iloc", struct.pack(">HHHHHII", 0x4400, 1, 1, 0, 1, place, len(coded)))
        parts = _full(b"hdlr", struct.pack(">I4s12xx", 0, b"pict")), _full(b"pitm", struct.pack(">H", 1)), iloc
        meta = _full(b"meta", b"".join(parts) + _full(b"iinf", struct.pack(">H", 1) + item) + iprp)
        place = len(head) + len(meta) + 8
    return head + meta + _box(b"mdat", coded)


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def _full(kind: bytes, body: bytes, version: int = 0) -> bytes:
    return _box(kind, bytes((version, 0, 0, 0)) + body)
