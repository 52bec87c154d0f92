"""Pictures whose files say what their numbers mean: deep PNGs and TIFFs, and colour profiles, made by hand."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

from tests.fakes.media import png_chunk

Pixels = npt.NDArray[np.integer]
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""PNG's colour types."""


def deep_png(pixels: Pixels, kind: int, bits: int = 8, chunks: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """A PNG of samples of shape (height, width, channels) of so many bits, with chunks before its pixels."""
    height, width = pixels.shape[:2]
    if bits >= 8:
        rows = pixels.astype(f">u{bits // 8}").reshape(height, -1).view(np.uint8).reshape(height, -1)
    else:
        ones = np.unpackbits(pixels.astype(np.uint8).reshape(height, -1, 1), axis=2)[..., -bits:]
        rows = np.packbits(ones.reshape(height, -1), axis=1)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def tiff(data: bytes, size: tuple[int, int], tags: dict[int, tuple[int, ...]], order: str = "<") -> bytes:
    """An uncompressed TIFF of one strip; `tags` are 16-bit numbers by tag beside those that each has."""
    width, height = size
    rows = {256: (width,), 257: (height,), 259: (1,), 277: (1,), 278: (height,), 273: (8,), 279: (len(data),)}
    entries, long = b"", {273, 279, 256, 257, 278}
    after = 8 + len(data) + len(data) % 2
    extra_at, extra = after + 2 + 12 * len(rows | tags) + 4, b""
    for tag, values in sorted((rows | tags).items()):
        kind = "I" if tag in long else "H"
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(packed) > 4:
            place, extra = struct.pack(f"{order}I", extra_at + len(extra)), extra + packed
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, 4 if kind == "I" else 3, len(values)) + place
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    head = magic + struct.pack(f"{order}I", after)
    directory = struct.pack(f"{order}H", len(rows | tags)) + entries + bytes(4)
    return head + data + bytes(len(data) % 2) + directory + extra


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of greys."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"
    return icc(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def cmyk_profile() -> bytes:
    """An ICC profile of inks that are not those of naive arithmetic: full cyan is a dark blue, black ink is brown."""
    lab = []
    for index in range(16):
        c, m, y, k = (index >> bit & 1 for bit in (3, 2, 1, 0))
        light = 100 - 30 * c - 25 * m - 8 * y - 60 * k
        lab += [max(0, light) * 255 // 100, 128 - 20 * c + 50 * m + 10 * k, 128 - 40 * c - 5 * m + 60 * y + 15 * k]
    ramp = bytes(range(256))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1" + struct.pack(">IBBBx", 0, 4, 3, 2) + identity + ramp * 4 + bytes(lab) + ramp * 3
    return icc(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def icc(kind: bytes, space: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2."""
    white = b"XYZ " + struct.pack(">I3i", 0, 63190, 65536, 54061)
    tags = {b"desc": b"desc" + struct.pack(">II", 0, 2) + b"t\0" + bytes(78), b"wtpt": white, **tags}
    at, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI", at + len(body), bytes(4), 0x02400000) + kind + space + pcs + bytes(12) + b"acsp"
    head += bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + table + body
