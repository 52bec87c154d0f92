"""Colour spaces that a picture names by numbers, written as ICC profiles that a colour engine reads.

Formats: ICC.1:2001-04 (version 2, matrix and curve), code points of ITU-T H.273, adaptation of the white by Bradford.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

Point = tuple[float, float]
"""CIE x and y."""
_Matrix = tuple[tuple[float, ...], ...]
D65: Point = (0.3127, 0.329)
_D50_XYZ = (0.9642, 1.0, 0.8249)
_CURVE_POINTS = 4096
_PAPER_NITS = 203.0
"""What high dynamic range calls white (ITU-R BT.2408); brighter light than that has no place in sRGB."""


@dataclass(frozen=True, slots=True)
class Primaries:
    """The colours of red, green, blue and white."""

    red: Point
    green: Point
    blue: Point
    white: Point = D65

    def near(self, other: Primaries) -> bool:
        """Whether they are the same but for rounding."""
        ours, theirs = (self.red, self.green, self.blue, self.white), (other.red, other.green, other.blue, other.white)
        return all(abs(a - b) < 0.002 for p, q in zip(ours, theirs, strict=True) for a, b in zip(p, q, strict=True))


SRGB = Primaries((0.64, 0.33), (0.3, 0.6), (0.15, 0.06))
ADOBE_RGB = Primaries((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256
PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    2: SRGB,
    4: Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.31, 0.316)),
    5: Primaries((0.64, 0.33), (0.29, 0.6), (0.15, 0.06)),
    6: Primaries((0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    7: Primaries((0.63, 0.34), (0.31, 0.595), (0.155, 0.07)),
    9: Primaries((0.708, 0.292), (0.17, 0.797), (0.131, 0.046)),
    11: Primaries((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.314, 0.351)),
    12: Primaries((0.68, 0.32), (0.265, 0.69), (0.15, 0.06)),
    22: Primaries((0.63, 0.34), (0.295, 0.605), (0.155, 0.077)),
}
"""H.273's colour primaries by number; 2 says nothing, which is sRGB's."""


def srgb_to_light(value: float) -> float:
    """sRGB's curve: 0…1 as coded to 0…1 of light."""
    return value / 12.92 if value <= 0.04045 else math.pow((value + 0.055) / 1.055, 2.4)


def power(gamma: float) -> Callable[[float], float]:
    """A curve that is a power alone."""
    return lambda value: math.pow(value, gamma)


def _pq_to_light(value: float) -> float:
    """SMPTE ST 2084, with paper white as 1; cut there."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = math.pow(value, 1 / m2)
    nits = 10_000 * math.pow(max(root - c1, 0) / (c2 - c3 * root), 1 / m1)
    return min(1.0, nits / _PAPER_NITS)


def _hlg_to_light(value: float) -> float:
    """ITU-R BT.2100's hybrid log-gamma on a display of 1000 nits, with paper white as 1; cut there."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = value * value / 3 if value <= 0.5 else (math.exp((value - c) / a) + b) / 12
    return min(1.0, 1000 * math.pow(scene, 1.2) / _PAPER_NITS)


PQ, HLG = 16, 18
TRANSFERS: dict[int, Callable[[float], float]] = {
    # Displays show what cameras code for television by about sRGB's curve; 2 says nothing.
    **dict.fromkeys((1, 2, 6, 13, 14, 15), srgb_to_light),
    4: power(2.2),
    5: power(2.8),
    8: power(1.0),
    17: power(2.6),
    PQ: _pq_to_light,
    HLG: _hlg_to_light,
}
"""H.273's transfer characteristics by number: from 0…1 as coded to 0…1 of light."""


def matrix_profile(primaries: Primaries, to_light: Callable[[float], float]) -> bytes:
    """An ICC profile of an RGB space. Raises ValueError for primaries that span no space."""
    columns = list(zip(*_to_d50(primaries), strict=True))
    curve = _curve(to_light)
    tags = {b"desc": _DESCRIPTION, b"wtpt": _xyz(_D50_XYZ), b"cprt": b"text\0\0\0\0none\0"}
    tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    return _profile(tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


@lru_cache(maxsize=16)
def _curve(to_light: Callable[[float], float]) -> bytes:
    values = [round(65535 * to_light(i / (_CURVE_POINTS - 1))) for i in range(_CURVE_POINTS)]
    return b"curv" + struct.pack(f">II{_CURVE_POINTS}H", 0, _CURVE_POINTS, *values)


_DESCRIPTION = b"desc" + struct.pack(">II", 0, 7) + b"source\0" + bytes(4 + 4 + 2 + 1 + 67)


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + struct.pack(">I3i", 0, *(round(value * 65536) for value in values))


def _profile(tags: dict[bytes, bytes]) -> bytes:
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    kinds = b"mntrRGB XYZ " + struct.pack(">6H", 2026, 1, 1, 0, 0, 0)
    head = struct.pack(">I4sI", at + len(body), bytes(4), 0x02400000) + kinds + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(round(value * 65536) for value in _D50_XYZ))
    return head + bytes(128 - len(head)) + table + body


_BRADFORD: _Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def _to_d50(primaries: Primaries) -> _Matrix:
    """The matrix from linear RGB to XYZ, with the space's white taken to D50."""
    columns = [_xyz_of(point) for point in (primaries.red, primaries.green, primaries.blue)]
    rows = tuple(zip(*columns, strict=True))
    white = _xyz_of(primaries.white)
    amounts = _times(_inverse(rows), white)
    to_xyz = tuple(tuple(value * amount for value, amount in zip(row, amounts, strict=True)) for row in rows)
    cones, wanted = _times(_BRADFORD, white), _times(_BRADFORD, _D50_XYZ)
    if min(map(abs, cones)) < 1e-9:
        raise ValueError("its white is no colour")
    scaled = tuple(tuple(w / c * value for value in row) for w, c, row in zip(wanted, cones, _BRADFORD, strict=True))
    return _product(_product(_inverse(_BRADFORD), scaled), to_xyz)


def _xyz_of(point: Point) -> tuple[float, float, float]:
    x, y = point
    if y <= 0:
        raise ValueError("a primary is no colour")
    return x / y, 1.0, (1 - x - y) / y


def _times(matrix: _Matrix, vector: Sequence[float]) -> tuple[float, ...]:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _product(left: _Matrix, right: _Matrix) -> _Matrix:
    return tuple(zip(*(_times(left, column) for column in zip(*right, strict=True)), strict=True))


def _inverse(matrix: _Matrix) -> _Matrix:
    """Of a 3 × 3 matrix, by its cofactors. Raises ValueError where there is none."""
    a, b, c = matrix
    columns = [_cross(b, c), _cross(c, a), _cross(a, b)]
    determinant = sum(x * y for x, y in zip(a, columns[0], strict=True))
    if abs(determinant) < 1e-9:
        raise ValueError("its primaries span no space")
    return tuple(tuple(value / determinant for value in row) for row in zip(*columns, strict=True))


def _cross(u: Sequence[float], v: Sequence[float]) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = u, v
    return b * f - c * e, c * d - a * f, a * e - b * d
