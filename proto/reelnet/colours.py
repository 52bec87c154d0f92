"""A decoded picture as 8-bit sRGB: deep pixels, palettes, print colours, colour profiles and transparency.

Pillow is imported where a picture is handled. What a file says of its colours counts in the order of the PNG standard:
code points (cICP), an ICC profile, the sRGB mark, and then gamma and primaries. What says nothing is sRGB.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from reelnet.icc import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    HLG,
    PQ,
    PRIMARIES,
    SRGB,
    TRANSFERS,
    Primaries,
    matrix_profile,
    power,
    srgb_to_light,
)
from reelnet.warnings import CODES, HIGHLIGHTS_CUT, PROFILE_IGNORED

if TYPE_CHECKING:
    from PIL import Image

WHITE = (255, 255, 255)
MAX_PROFILE_BYTES = 4 * 2**20
"""Most bytes of a colour profile; a printer's have 0.5 to 2.5 MB."""
_SAME = 2
"""Steps of 255 by which two pictures may differ and look the same: lcms rounds."""
_SCREEN_GAMMA = 1 / 2.2
_GAMMA_TOLERANCE = 0.05
"""A gamma that is this near to a screen's, in parts, is written for sRGB itself."""
_LATTICE = 17
_EDGE_PIXELS = 4
"""How far the colours of what is seen go on where nothing is."""


class DepthError(ValueError):
    """Numbers that no rule makes a picture of; the text says which."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a file says of its pixels.

    `bits`: of a sample, as stored. `low_is_white`: 0 is white. `chunks`: bodies of a PNG's chunks by name, or of what
    says the same elsewhere (`cICP`). `icc`: the profile, None where one is named that cannot be read. `adobe_rgb`: a
    camera names this space where there is no profile.
    """

    bits: int = 8
    low_is_white: bool = False
    chunks: Mapping[bytes, bytes] = ()  # type: ignore[assignment]
    icc: bytes | None = b""
    adobe_rgb: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture in sRGB, of mode L, LA, RGB or RGBA. `changed`: its numbers are not the file's.

    `note`: a code and a sentence of what was not kept; None for nothing.
    """

    picture: Image.Image
    changed: bool
    note: tuple[str, str] | None = None


def in_srgb(picture: Image.Image, claims: Claims) -> Seen:
    """The picture as a screen shows it. Raises DepthError, and what Pillow raises for damage."""
    absolute = picture.mode == "LAB"  # which numbers are colours by themselves, whatever profile is named
    colour, alpha = _separate(picture, claims)
    convert, note = (None, None) if absolute else _conversion(colour.mode, claims)
    changed = convert is not None or absolute or picture.mode in _DEEP
    shown = convert(colour) if convert else colour
    if shown.mode not in {"L", "RGB"}:
        shown = shown.convert("RGB")
    if alpha is not None:
        shown = shown.convert("RGB") if shown.mode != "L" else shown
        shown.putalpha(alpha)
    return Seen(shown, changed, note)


def see_through(picture: Image.Image) -> bool:
    """Whether any pixel of an L, LA, RGB or RGBA picture lets what is behind it show."""
    if "A" not in picture.getbands():
        return False
    return _lowest_alpha(picture) < 255


def hides(picture: Image.Image) -> bool:
    """Whether a picture has pixels of which nothing is seen."""
    return "A" in picture.getbands() and _lowest_alpha(picture) == 0


def _lowest_alpha(picture: Image.Image) -> int:
    lowest, _ = picture.getchannel("A").getextrema()
    return int(lowest)  # type: ignore[arg-type]


def laid_on(picture: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """The picture on a ground of one colour, RGB; as it is where it has no transparency."""
    from PIL import Image

    if "A" not in picture.getbands():
        return picture
    ground = Image.new("RGB", picture.size, colour)
    ground.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return ground


def without_hidden(picture: Image.Image) -> Image.Image:
    """A picture with transparency, in which what is fully hidden has the colours of what is seen beside it, or black.

    A model that enlarges it would draw the hidden colours along every edge.
    """
    from PIL import ImageFilter

    shown, alpha = picture.convert("RGBA"), picture.getchannel("A")
    hidden = alpha.point([255, *[0] * 255])
    around = shown.convert("RGBa").filter(ImageFilter.GaussianBlur(_EDGE_PIXELS)).convert("RGBA").convert("RGB")
    colours = shown.convert("RGB")
    colours.paste(around, mask=hidden)
    colours.putalpha(alpha)
    return colours


# Pixels of other kinds than 8 bits of grey, RGB or CMYK.

_DEEP = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})


def _separate(picture: Image.Image, claims: Claims) -> tuple[Image.Image, Image.Image | None]:
    """The colours, of mode L, RGB or CMYK, and the transparency."""
    if picture.mode in _DEEP:
        return _shallow(picture, claims)
    picture = _keyed(picture, claims)
    if picture.has_transparency_data:
        picture = picture.convert("LA" if picture.mode in {"L", "LA", "La"} else "RGBA")
        return picture.convert(picture.mode[:-1]), picture.getchannel("A")
    return (picture if picture.mode in {"L", "RGB", "CMYK"} else picture.convert("RGB")), None


def _keyed(picture: Image.Image, claims: Claims) -> Image.Image:
    """The picture with its transparent grey or colour counted as its pixels are: a PNG tells it in the file's bits."""
    key = picture.info.get("transparency")
    shown = picture.convert("L") if picture.mode == "1" else picture
    if key is None or shown.mode not in {"L", "RGB"}:
        return shown
    if picture.mode == "1":  # for which Pillow counts so by itself
        return shown
    most = (1 << claims.bits) - 1
    scaled = [
        part >> 8 if claims.bits == 16 else part * 255 // most for part in (key if isinstance(key, tuple) else (key,))
    ]
    shown.info["transparency"] = tuple(scaled) if isinstance(key, tuple) else scaled[0]
    return shown


def _shallow(picture: Image.Image, claims: Claims) -> tuple[Image.Image, Image.Image | None]:
    """Grey of more than 8 bits as 8, and the transparency of the grey that a PNG names."""
    if picture.mode == "F":
        grey, alpha = _of_floats(picture), None
    elif picture.mode == "I":
        raise DepthError("it has whole numbers of 32 bits a pixel; save it with 8 or 16")
    else:
        grey, alpha = _of_words(picture, claims.bits)
    from PIL import ImageChops

    return (ImageChops.invert(grey) if claims.low_is_white else grey), alpha


def _of_words(picture: Image.Image, bits: int) -> tuple[Image.Image, Image.Image | None]:
    """The upper 8 of 16 bits, or of as many as the file has."""
    from PIL import Image, ImageChops

    little = picture.mode != "I;16B"
    words = picture if bits == 16 or not little else picture.convert("I").point(lambda value: value * 2 ** (16 - bits))
    if words.mode == "I":
        words = words.convert("I;16")
    first, second = Image.frombytes("LA", picture.size, words.tobytes()).split()
    low, high = (first, second) if little else (second, first)
    key = picture.info.get("transparency")
    if not isinstance(key, int):
        return high, None
    other = ImageChops.lighter(_differs(high, key >> 8), _differs(low, key & 255))
    return high, other


def _differs(band: Image.Image, value: int) -> Image.Image:
    """255 where the band is another value, 0 where it is that one."""
    return band.point([0 if each == value else 255 for each in range(256)])


def _of_floats(picture: Image.Image) -> Image.Image:
    """Grey from 0 (black) to 1 (white)."""
    low, high = picture.getextrema()
    if not 0 <= low <= high <= 1:  # type: ignore[operator]
        raise DepthError(f"its pixels are numbers from {low:g} to {high:g}; expected 0 to 1, or 8 or 16 bits")
    return picture.point(lambda value: value * 255 + 0.5).convert("L")


# Colour spaces.

_Convert = Callable[["Image.Image"], "Image.Image"]


def _conversion(mode: str, claims: Claims) -> tuple[_Convert | None, tuple[str, str] | None]:
    """What makes sRGB of a picture of mode L, RGB or CMYK; None where it is that already, or nothing else is known."""
    try:
        return _claimed(mode, claims)
    except (ValueError, OSError, struct.error) as error:
        reason = str(error) or type(error).__name__
        return None, (PROFILE_IGNORED, f"The picture's colours were taken as sRGB: {reason[:160]}.")


def _claimed(mode: str, claims: Claims) -> tuple[_Convert | None, tuple[str, str] | None]:
    chunks = dict(claims.chunks or {})
    if points := chunks.get(b"cICP"):
        return _by_code_points(mode, points)
    if claims.icc is None:
        raise ValueError("its colour profile cannot be read")
    if claims.icc:
        return _by_profile(mode, claims.icc), None
    if b"sRGB" in chunks or mode == "CMYK":
        return None, None
    if claims.adobe_rgb:
        return _by_matrix(mode, ADOBE_RGB, power(ADOBE_GAMMA)), None
    return _by_gamma(mode, chunks), None


def _by_code_points(mode: str, points: bytes) -> tuple[_Convert | None, tuple[str, str] | None]:
    primaries, transfer = PRIMARIES.get(points[0]), TRANSFERS.get(points[1]) if len(points) > 1 else None
    if primaries is None or transfer is None or mode == "CMYK":
        raise ValueError(f"its colour space, {tuple(points[:2])} of H.273, is not known here")
    hdr = (HIGHLIGHTS_CUT, CODES[HIGHLIGHTS_CUT])
    return _by_matrix(mode, primaries, transfer), hdr if points[1] in {PQ, HLG} else None


def _by_gamma(mode: str, chunks: Mapping[bytes, bytes]) -> _Convert | None:
    """By a PNG's gamma and primaries, each told in parts of 100,000."""
    primaries, transfer = SRGB, TRANSFERS[2]
    if gamma := chunks.get(b"gAMA"):
        (coded,) = struct.unpack(">I", gamma)
        if not 1_000 <= coded <= 10_000_000:
            raise ValueError(f"its gamma, {coded / 1e5:g}, is none")
        if abs(coded / 1e5 / _SCREEN_GAMMA - 1) > _GAMMA_TOLERANCE:
            transfer = power(1e5 / coded)
    if named := chunks.get(b"cHRM"):
        values = [value / 1e5 for value in struct.unpack(">8I", named)]
        white, red, green, blue = zip(values[::2], values[1::2], strict=True)
        found = Primaries(red, green, blue, white)
        primaries = SRGB if found.near(SRGB) else found
    return _by_matrix(mode, primaries, transfer)


def _by_matrix(mode: str, primaries: Primaries, transfer: Callable[[float], float]) -> _Convert | None:
    if primaries is SRGB and transfer is srgb_to_light:
        return None
    return _by_profile(mode, matrix_profile(primaries, transfer))


def _by_profile(mode: str, icc: bytes) -> _Convert | None:
    """Through the colour engine. Raises ValueError for a profile that is broken, or of other colours."""
    from PIL import ImageCms

    if len(icc) > MAX_PROFILE_BYTES:
        raise ValueError(f"its colour profile has {len(icc)} bytes; at most {MAX_PROFILE_BYTES} are read")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        source = _MODES.get(profile.profile.xcolor_space.strip(), "")
        if source != mode and (mode, source) != ("L", "RGB"):
            raise ValueError(f"its colour profile is for {profile.profile.xcolor_space.strip()}, not for these pixels")
        transform = ImageCms.buildTransform(profile, _srgb(), source, "RGB")
        if source != "CMYK" and _changes_nothing(transform, source):
            return None
    except ImageCms.PyCMSError as error:
        raise ValueError(f"its colour profile cannot be used: {error}") from None

    def convert(picture: Image.Image) -> Image.Image:
        shown = picture if picture.mode == source else picture.convert(source)
        if source == "RGB":
            ImageCms.applyTransform(shown, transform, inPlace=True)
            return shown
        made = ImageCms.applyTransform(shown, transform)
        assert made is not None
        return made

    return convert


_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


@cache
def _srgb() -> Any:
    from PIL import ImageCms

    return ImageCms.createProfile("sRGB")


def _changes_nothing(transform: Any, mode: str) -> bool:
    """Whether colours all over the space stay as they are."""
    from PIL import ImageChops

    probe = _lattice(mode)
    shown = transform.apply(probe)
    extrema: Any = ImageChops.difference(shown, probe.convert("RGB")).getextrema()
    return all(high <= _SAME for _, high in extrema)


@cache
def _lattice(mode: str) -> Image.Image:
    from PIL import Image

    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    steps = [round(255 * i / (_LATTICE - 1)) for i in range(_LATTICE)]
    colours = bytes(value for red in steps for green in steps for blue in steps for value in (red, green, blue))
    return Image.frombytes("RGB", (_LATTICE**3, 1), colours)
