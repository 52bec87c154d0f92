"""Pictures come in as a screen shows them; Pillow's colour engine, FFmpeg's program and plain arithmetic decide."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from reelnet.errors import UserError
from reelnet.icc import PRIMARIES, matrix_profile, power, srgb_to_light
from reelnet.inspection import Handling, InputLimits, PictureFacts, inspect_picture
from reelnet.metadata import PNG
from tests.fakes.colours import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, cmyk_profile, deep_png, grey_profile, tiff
from tests.fakes.heic import heic, marked
from tests.fakes.media import encoded, exif, pattern
from tests.programs import needs

Bytes = npt.NDArray[np.uint8]
P3 = matrix_profile(PRIMARIES[12], power(2.2))
ADOBE = matrix_profile(PRIMARIES[1], power(1.8))
PURPLE = (200, 0, 200)
PLAIN = Handling()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def taken(folder: Path, data: bytes, handling: Handling = PLAIN) -> tuple[PictureFacts, Image.Image]:
    """What is told of a picture, and the one that goes to a node, as Pillow alone reads it."""
    (folder / "given").write_bytes(data)
    facts = inspect_picture(folder / "given", InputLimits(), handling, stripped_to=folder / "kept")
    kept = Image.open(folder / "kept")
    kept.load()
    return facts, kept


def shown(folder: Path, data: bytes, handling: Handling = PLAIN) -> Bytes:
    """The picture's pixels as RGB, for a node that knows nothing of profiles."""
    facts, kept = taken(folder, data, handling)
    assert facts.notes == ()
    return np.asarray(kept.convert("RGB"))


def ramp(bits: int, channels: int = 1) -> npt.NDArray[np.uint16]:
    """All greys of 64 × 64 pixels, each channel in another order."""
    values = np.linspace(0, (1 << bits) - 1, 64 * 64).round().astype(np.uint16).reshape(64, 64)
    return np.stack([np.rot90(values, turn) for turn in range(channels)], axis=-1)


@pytest.mark.parametrize(("kind", "channels"), [(GREY, 1), (RGB, 3)])
def test_sixteen_bits_are_eight_of_them(folder: Path, kind: int, channels: int) -> None:
    """A deep PNG gives the same picture as its upper halves do."""
    deep = ramp(16, channels)
    seen = shown(folder, deep_png(deep, kind, 16))
    assert np.array_equal(seen, np.broadcast_to(deep >> 8, (64, 64, 3)))


@pytest.mark.parametrize(("kind", "channels"), [(GREY_ALPHA, 2), (RGBA, 4)])
def test_sixteen_bits_with_transparency(folder: Path, kind: int, channels: int) -> None:
    """Both are cut to eight; what is hidden gives way to the ground."""
    deep = ramp(16, channels)
    seen = shown(folder, deep_png(deep, kind, 16), Handling(background=(0, 0, 255)))
    alpha = (deep[..., -1:] >> 8) / 255
    expected = (deep[..., :-1] >> 8) * alpha + np.array((0, 0, 255)) * (1 - alpha)
    assert np.abs(seen - expected).max() <= 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [16, 12])
@pytest.mark.parametrize("black_is_zero", [1, 0])
def test_deep_tiffs(folder: Path, order: str, bits: int, black_is_zero: int) -> None:
    """Both orders of bytes, 12 bits packed in threes, and scans in which 0 is white."""
    deep = ramp(bits)[..., 0]
    if bits == 12:
        pairs = deep.reshape(-1, 2).astype(np.uint32)
        joined = pairs[:, 0] << 12 | pairs[:, 1]
        data = np.stack([joined >> 16, joined >> 8 & 255, joined & 255], axis=-1).astype(np.uint8).tobytes()
    else:
        data = deep.astype(f"{order}u2").tobytes()
    file = tiff(data, (64, 64), {258: (bits,), 262: (black_is_zero,)}, order)
    if (bits, order, black_is_zero) in {(16, "<", 0), (16, "<", 1), (16, ">", 1), (12, "<", 1)}:
        seen = shown(folder, file)
    else:  # which Pillow does not read
        assert refused(folder, file).message.startswith("this is a TIFF whose pixels are of a rare kind: expected PNG,")
        return
    expected = deep >> (bits - 8)
    assert np.array_equal(seen[..., 0], expected if black_is_zero else 255 - expected)


def test_floats_from_black_to_white(folder: Path) -> None:
    """0 is black and 1 is white; other numbers have no rule, nor have whole ones of 32 bits."""
    values = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    seen = shown(folder, encoded(Image.fromarray(values), "TIFF"))
    assert np.abs(seen[..., 0] - values * 255).max() <= 0.51
    for strange in (values * 300, values - 1, values * np.nan):
        assert refused(folder, encoded(Image.fromarray(strange), "TIFF")).code == "depth"
    assert refused(folder, encoded(Image.fromarray(ramp(16)[..., 0].astype(np.int32)), "TIFF")).code == "depth"


def refused(folder: Path, data: bytes) -> UserError:
    with pytest.raises(UserError) as caught:
        taken(folder, data)
    assert caught.value.http_status == 415
    return caught.value


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_grey_that_a_png_names_is_transparent(folder: Path, bits: int) -> None:
    """In the file's own count, whatever its depth."""
    key = 1 if bits == 1 else (1 << bits) - 2
    values = np.full((32, 32, 1), 0, np.uint16)
    values[:, 16:] = key
    data = deep_png(values, GREY, bits, ((b"tRNS", struct.pack(">H", key)),))
    seen = shown(folder, data, Handling(background=PURPLE))
    assert tuple(seen[0, 0]) == (0, 0, 0)
    assert tuple(seen[0, 31]) == PURPLE


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_that_a_png_names_is_transparent(folder: Path, bits: int) -> None:
    """The same for three channels."""
    key = (200, 100, 50) if bits == 8 else (51200, 25600, 12800)
    values = np.zeros((32, 32, 3), np.uint16)
    values[:, 16:] = key
    data = deep_png(values, RGB, bits, ((b"tRNS", struct.pack(">3H", *key)),))
    seen = shown(folder, data, Handling(background=PURPLE))
    assert (tuple(seen[0, 0]), tuple(seen[0, 31])) == ((0, 0, 0), PURPLE)


def test_a_palette_with_transparency(folder: Path) -> None:
    """Entries that are half transparent are half the ground, and one entry alone may be transparent too."""
    values = np.repeat(np.arange(32) // 16, 32).reshape(32, 32, 1)
    palette = b"PLTE", bytes((255, 0, 0, 0, 255, 0))
    for alphas, expected in ((b"\xff\x80", (0, 128, 127)), (b"\xff\x00", (0, 0, 255))):
        data = deep_png(values, PALETTE, 8, (palette, (b"tRNS", alphas)))
        seen = shown(folder, data, Handling(background=(0, 0, 255)))
        assert tuple(seen[0, 0]) == (255, 0, 0)
        assert np.abs(seen[31, 0].astype(int) - expected).max() <= 1


def cut_out(kind: str, mode: str = "RGBA") -> bytes:
    """A picture whose right half is hidden: its colour is still in the file."""
    picture = Image.new("RGB", (32, 32), (10, 20, 30)).convert(mode)
    picture.paste(Image.new("RGB", (16, 32), (250, 250, 0)).convert(mode), (16, 0))
    alpha = Image.new("L", (32, 32), 255)
    alpha.paste(0, (16, 0, 32, 32))
    picture.putalpha(alpha)
    return encoded(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "GIF"])
def test_what_is_hidden_stays_hidden(folder: Path, kind: str) -> None:
    """A cut-out comes on white, or on the colour that was chosen; no file that goes on holds the hidden colour."""
    for background in ((255, 255, 255), PURPLE):
        seen = shown(folder, cut_out(kind), Handling(background=background)).astype(int)
        assert np.abs(seen[:, :14] - (10, 20, 30)).max() <= (3 if kind in ("AVIF", "GIF") else 0)
        assert np.abs(seen[:, 18:] - background).max() == 0


def test_grey_with_transparency(folder: Path) -> None:
    """LA is laid on its ground as well."""
    seen = shown(folder, cut_out("PNG", "L"), Handling(background=PURPLE))
    assert tuple(seen[0, 31]) == PURPLE
    assert len({*map(int, seen[0, 0])}) == 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_that_is_wanted_stays(folder: Path, kind: str) -> None:
    """For upscale: the same transparency, and the same colours where they are seen."""
    _, kept = taken(folder, cut_out(kind), Handling(keep_alpha=True))
    pixels = np.asarray(kept.convert("RGBA"))
    assert np.array_equal(np.unique(pixels[..., 3]), [0, 255])
    assert (pixels[:, :16] == (10, 20, 30, 255)).all()
    assert pixels[..., :3].max() <= 40, "the yellow that was cut out is in no pixel, where a net would draw it again"
    assert np.abs(pixels[:, 16:18, :3].astype(int) - (10, 20, 30)).max() <= 6


def test_an_alpha_that_hides_nothing_changes_nothing(folder: Path) -> None:
    """The file goes on as it is."""
    picture = pattern(32, 32)
    picture.putalpha(255)
    data = encoded(picture, "PNG")
    assert taken(folder, data)[0].size == len(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_a_colour_profile_is_applied(folder: Path, kind: str) -> None:
    """Display P3's 200, 120, 80 is sRGB's 214, 116, 69; Pillow's colour engine decides for other colours."""
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    options |= {"quality": 100, "subsampling": "4:4:4"} if kind == "AVIF" else {}
    seen = shown(folder, encoded(Image.new("RGB", (32, 32), (200, 120, 80)), kind, icc_profile=P3, **options))
    assert np.abs(seen.astype(int) - (214, 116, 69)).max() <= 2
    data = encoded(pattern(64, 48), kind, icc_profile=P3, **options)
    assert np.abs(shown(folder, data).astype(int) - by_engine(data)).max() <= 1


def by_engine(data: bytes) -> Bytes:
    """The picture's pixels as Pillow's colour engine makes them by the profile in the file."""
    with Image.open(io.BytesIO(data)) as picture:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        made = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert made is not None
    return np.asarray(made)


def test_a_profile_applies_under_transparency(folder: Path) -> None:
    """Colours are converted, and the transparency is not."""
    picture = Image.new("RGBA", (32, 32), (200, 120, 80, 100))
    _, kept = taken(folder, encoded(picture, "PNG", icc_profile=P3), Handling(keep_alpha=True))
    assert kept.getpixel((5, 5)) == (214, 116, 69, 100)
    assert "icc_profile" not in kept.info


def test_profiles_of_a_palette_of_greys_and_of_inks(folder: Path) -> None:
    """Each kind of profile goes with its kind of pixels."""
    palette = Image.new("RGB", (32, 32), (200, 120, 80)).quantize(4)
    assert tuple(shown(folder, encoded(palette, "PNG", icc_profile=P3))[0, 0]) == (214, 116, 69)
    greys = encoded(pattern(64, 48).convert("L"), "PNG", icc_profile=grey_profile(1.0))
    assert np.array_equal(shown(folder, greys), by_engine(greys))
    assert int(shown(folder, greys).max()) > 240
    inks = encoded(pattern(64, 48).convert("CMYK"), "JPEG", icc_profile=cmyk_profile(), quality=95)
    assert np.array_equal(shown(folder, inks), by_engine(inks))
    grey_in_rgb = encoded(Image.new("L", (32, 32), 120), "JPEG", icc_profile=P3)
    assert len(np.unique(shown(folder, grey_in_rgb))) <= 2


def test_a_profile_that_says_srgb_changes_nothing(folder: Path) -> None:
    """A photo with the usual profile stays the JPEG that it is."""
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), srgb_by_hand()):
        data = encoded(pattern(64, 48), "JPEG", icc_profile=profile)
        facts, _ = taken(folder, data)
        assert (facts.media_type, facts.size, facts.notes) == ("image/jpeg", len(data), ())


def srgb_by_hand() -> bytes:
    return matrix_profile(PRIMARIES[1], srgb_to_light)


@pytest.mark.parametrize(
    "profile",
    [b"no profile", bytes(200), P3[:300], cmyk_profile(), grey_profile(2.2), P3 + bytes(5 * 2**20)],
    ids=["text", "zeros", "cut", "of inks", "of greys", "huge"],
)
def test_a_broken_profile_is_a_warning(folder: Path, profile: bytes) -> None:
    """The picture is taken for sRGB, and the answer can say so."""
    facts, kept = taken(folder, encoded(pattern(64, 48), "TIFF", icc_profile=profile))
    ((code, message),) = facts.notes
    assert code == "profile_ignored"
    assert message.startswith("The picture's colours were taken as sRGB: ")
    assert np.array_equal(np.asarray(kept.convert("RGB")), np.asarray(pattern(64, 48)))


@pytest.mark.parametrize("body", [b"x", b"name\0\0not deflated", b"name\0\1"])
def test_a_profile_chunk_that_cannot_be_unpacked(folder: Path, body: bytes) -> None:
    """A PNG's profile is packed by itself, and a JPEG's comes in numbered pieces."""
    facts, _ = taken(folder, deep_png(np.asarray(pattern(32, 32)), RGB, 8, ((b"iCCP", body),)))
    assert [code for code, _ in facts.notes] == ["profile_ignored"]
    data = encoded(pattern(32, 32), "JPEG", icc_profile=P3)
    at = data.index(b"ICC_PROFILE\0") + 13  # says of how many pieces it is one
    facts, _ = taken(folder, data[:at] + b"\x09" + data[at + 1 :])
    assert [code for code, _ in facts.notes] == ["profile_ignored"]


def light(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def coded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def xyz_matrix(points: tuple[tuple[float, float], ...]) -> npt.NDArray[np.float64]:
    """From linear RGB to XYZ; red, green, blue, white."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in points]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


SRGB_POINTS = ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06), (0.3127, 0.329))
P3_POINTS = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.329))
WIDE_POINTS = ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046), (0.3127, 0.329))


def between(linear: npt.NDArray[np.float64], points: tuple[tuple[float, float], ...]) -> npt.NDArray[np.float64]:
    """Linear colours of a space with daylight as its white, as sRGB's 0-255."""
    turned = linear @ (np.linalg.inv(xyz_matrix(SRGB_POINTS)) @ xyz_matrix(points)).T
    return coded(turned) * 255


def gamma(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def primaries(points: tuple[tuple[float, float], ...]) -> tuple[bytes, bytes]:
    order = (points[3], *points[:3])
    return b"cHRM", struct.pack(">8I", *(round(part * 100_000) for point in order for part in point))


@pytest.mark.parametrize("kind", [GREY, RGB])
def test_a_pngs_gamma_counts(folder: Path, kind: int) -> None:
    """Linear light becomes lighter numbers; a screen's gamma is sRGB's own."""
    pixels = np.asarray(pattern(64, 48).convert("L") if kind == GREY else pattern(64, 48))
    pixels = pixels.reshape(48, 64, -1)
    seen = shown(folder, deep_png(pixels, kind, 8, (gamma(1.0),)))
    assert np.abs(seen - np.broadcast_to(coded(pixels / 255) * 255, seen.shape)).max() <= 1
    usual = deep_png(pixels, kind, 8, (gamma(0.45455),))
    assert np.array_equal(shown(folder, usual), np.broadcast_to(pixels, seen.shape))


def test_a_pngs_primaries_count(folder: Path) -> None:
    """With gamma and without, and not where the sRGB mark stands beside them."""
    pixels = np.asarray(pattern(64, 48))
    seen = shown(folder, deep_png(pixels, RGB, 8, (gamma(1 / 1.8), primaries(P3_POINTS))))
    assert np.abs(seen - between((pixels / 255) ** 1.8, P3_POINTS)).max() <= 1.6
    seen = shown(folder, deep_png(pixels, RGB, 8, (primaries(P3_POINTS),)))
    assert np.abs(seen - between(light(pixels / 255), P3_POINTS)).max() <= 1.6
    marked = deep_png(pixels, RGB, 8, ((b"sRGB", b"\0"), gamma(1.0), primaries(P3_POINTS)))
    assert np.array_equal(shown(folder, marked), pixels)
    same = deep_png(pixels, RGB, 8, (gamma(0.45455), primaries(SRGB_POINTS)))
    assert np.array_equal(shown(folder, same), pixels)


def test_the_profile_goes_before_gamma_and_code_points_before_all(folder: Path) -> None:
    """In the order of the PNG standard."""
    pixels = np.full((32, 32, 3), (200, 120, 80), np.uint8)
    with Image.open(io.BytesIO(encoded(Image.new("RGB", (8, 8)), "PNG", icc_profile=P3))) as picture:
        assert picture.info["icc_profile"] == P3
    packed = b"p\0\0" + zlib.compress(P3)
    seen = shown(folder, deep_png(pixels, RGB, 8, ((b"iCCP", packed), gamma(1.0))))
    assert tuple(seen[0, 0]) == (214, 116, 69)
    points = b"cICP", bytes((12, 13, 0, 1))
    seen = shown(folder, deep_png(pixels, RGB, 8, (points, (b"iCCP", packed), gamma(1.0))))
    assert np.abs(seen[0, 0] - between(light(np.array((200, 120, 80)) / 255), P3_POINTS)).max() <= 1


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range_has_white_where_paper_is(folder: Path, transfer: int) -> None:
    """PQ's 58% and HLG's 75% are white, what is brighter is cut, and the answer can say so."""
    white = {16: 0.5807, 18: 0.75}[transfer]
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :10], pixels[:, 10:20] = round(white * 255), 255
    facts, kept = taken(folder, deep_png(pixels, RGB, 8, ((b"cICP", bytes((9, transfer, 0, 1))),)))
    seen = np.asarray(kept.convert("RGB"))
    assert seen[0, 0].min() >= 252
    assert (seen[0, 15].min(), seen[0, 31].max()) == (255, 0)
    assert [code for code, _ in facts.notes] == ["highlights_cut"]


@pytest.mark.parametrize(
    "chunk", [(b"cICP", b"\x63\x63\0\1"), (b"cICP", b"\1"), gamma(0), primaries(((0.3, 0.0),) * 4)]
)
def test_nonsense_of_colours_is_a_warning(folder: Path, chunk: tuple[bytes, bytes]) -> None:
    """Unknown code points, and numbers that are no colours."""
    facts, kept = taken(folder, deep_png(np.asarray(pattern(32, 32)), RGB, 8, (chunk,)))
    assert [code for code, _ in facts.notes] == ["profile_ignored"]
    assert np.array_equal(np.asarray(kept.convert("RGB")), np.asarray(pattern(32, 32)))


def test_lab_and_ycbcr_tiffs(folder: Path) -> None:
    """By the colour engine, and as JPEG counts."""
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    made = ImageCms.profileToProfile(pattern(64, 48), srgb, lab, outputMode="LAB")
    assert made is not None
    seen = shown(folder, encoded(made, "TIFF"))
    back = ImageCms.profileToProfile(made, lab, srgb, outputMode="RGB")
    assert np.array_equal(seen, np.asarray(back))
    seen = shown(folder, encoded(pattern(64, 48), "TIFF", compression="jpeg", quality=95))
    assert np.abs(seen.astype(int) - np.asarray(pattern(64, 48))).mean() < 12


@pytest.mark.parametrize("transform", [0, 2])
def test_adobes_inks_are_the_right_way_round(folder: Path, transform: int) -> None:
    """CMYK and YCCK as Adobe writes them, upside down; FFmpeg's decoder decides."""
    needs("ffmpeg")
    smooth = Image.merge("CMYK", [Image.linear_gradient("L").rotate(90 * n).resize((64, 64)) for n in range(4)])
    data = bytearray(encoded(smooth, "JPEG", quality=95, subsampling=0))
    if transform:
        data[data.index(b"Adobe") + 11] = transform
        for at in range(data.index(b"\xff\xc0"), data.index(b"\xff\xda") + 20):  # the components' names, to numbers
            if data[at] in b"CMYK" and data[at + 1] in (0x11, 0x00):
                data[at] = b"CMYK".index(data[at]) + 1
    (folder / "a.jpg").write_bytes(data)
    command = ["ffmpeg", "-v", "error", "-i", folder / "a.jpg", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    seen = shown(folder, bytes(data)).astype(int)
    assert np.abs(seen - np.frombuffer(raw, np.uint8).reshape(64, 64, 3)).mean() < 5


@pytest.mark.parametrize("mode", ["1", "P", "L"])
@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PNG"])
def test_few_colours(folder: Path, mode: str, kind: str) -> None:
    """Black and white, palettes and greys are what they are, in every format."""
    picture = pattern(40, 32).convert(mode)
    assert np.array_equal(shown(folder, encoded(picture, kind)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF", "AVIF"])
def test_other_formats_become_png(folder: Path, kind: str) -> None:
    """A node gets what it knows, without what the file said besides."""
    options = {"exif": exif()} if kind in ("AVIF", "TIFF") else {}
    data = encoded(pattern(40, 32), kind, **options)
    facts, kept = taken(folder, data)
    assert (facts.media_type, kept.format, kept.size) == (PNG, "PNG", (40, 32))
    with Image.open(io.BytesIO(data)) as given:
        assert np.array_equal(np.asarray(kept.convert("RGB")), np.asarray(given.convert("RGB")))
    assert b"SECRETCAMERA" not in (folder / "kept").read_bytes()


def test_a_fitted_picture_keeps_its_aspect(folder: Path) -> None:
    """As large as the bound lets it be; without the wish it is refused with advice, and a small one stays."""
    data = encoded(pattern(300, 200), "PNG", exif=exif(6))
    facts, kept = taken(folder, data, Handling(most_pixels=15_000, fit=True))
    assert (facts.width, facts.height) == kept.size == (100, 150)
    with pytest.raises(UserError) as caught:
        taken(folder, data, Handling(most_pixels=15_000))
    assert (caught.value.code, caught.value.http_status) == ("too_large", 413)
    assert caught.value.message.endswith("; fit_input=true makes it smaller here")
    plain = encoded(pattern(30, 20), "PNG")
    assert taken(folder, plain, Handling(most_pixels=15_000, fit=True))[0].size == len(plain)


@pytest.mark.parametrize("turned", range(4))
@pytest.mark.parametrize("mirrored", [None, 0, 1])
def test_a_phones_heic_stands_as_it_was_taken(folder: Path, turned: int, mirrored: int | None) -> None:
    """Its rotation, to the left, and then its mirror: axis 0 swaps top and bottom, axis 1 left and right."""
    seen = shown(folder, heic(turned=turned, mirrored=mirrored))
    expected = np.rot90(np.asarray(marked()), turned)
    if mirrored is not None:
        expected = expected[::-1] if mirrored == 0 else expected[:, ::-1]
    assert np.abs(seen.astype(int) - expected).mean() < 3


def test_a_heics_colours_count(folder: Path) -> None:
    """By its profile, or by its code points."""
    by_profile = shown(folder, heic(plain=True, colour=b"prof" + P3))
    assert np.abs(by_profile[20, 20].astype(int) - (214, 116, 69)).max() <= 3
    by_points = shown(folder, heic(plain=True, colour=b"nclx" + struct.pack(">HHHB", 12, 13, 6, 0x80)))
    expected = between(light(np.array((200, 120, 80)) / 255), P3_POINTS)
    assert np.abs(by_points[20, 20] - expected).max() <= 3
    assert np.abs(shown(folder, heic(plain=True))[20, 20].astype(int) - (200, 120, 80)).max() <= 2


def test_a_damaged_heic_is_damage(folder: Path) -> None:
    """Also one that ends early, and one without a picture in it."""
    data = heic()
    for broken in (data[:-200], data[:40], data[: data.index(b"mdat")]):
        assert refused(folder, broken).code == "damaged"


def frames(kind: str) -> bytes:
    return encoded(pattern(32, 32), kind, save_all=True, append_images=[pattern(32, 32, 1)])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GIF", "the picture is animated; send one frame of it"),
        ("AVIF", "the picture is animated; send one frame of it"),
        ("PNG", "the picture is animated; send one frame of it"),
        ("WEBP", "the picture is animated; send one frame of it"),
        ("TIFF", "the picture has several pages; send one of them"),
    ],
)
def test_of_several_pictures_none_is_guessed(folder: Path, kind: str, message: str) -> None:
    """Which one was meant is not ours to say."""
    error = refused(folder, frames(kind))
    assert (error.code, error.message) == ("animated", message)


def test_a_raw_files_thumbnail_is_not_the_picture(folder: Path) -> None:
    """DNG and NEF are TIFFs whose first picture is a small one."""
    data = tiff(bytes(32 * 32), (32, 32), {254: (1,), 258: (8,), 262: (1,)})
    error = refused(folder, data)
    assert error.message.startswith("this is a camera's raw file (as DNG or NEF): expected PNG, ")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF"])
def test_other_formats_are_bounded_by_their_headers(folder: Path, kind: str) -> None:
    """Size limits hold before anything is decoded, and a cut file is damage."""
    data = encoded(Image.new("L", (3000, 2000)), kind)
    (folder / "given").write_bytes(data)
    with pytest.raises(UserError) as caught:
        inspect_picture(folder / "given", InputLimits(max_pixels=1_000_000))
    assert (caught.value.code, caught.value.http_status) == ("too_large", 413)
    assert refused(folder, encoded(pattern(64, 64), kind)[:-200]).code == "damaged"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_camera_may_name_adobe_rgb_without_a_profile(folder: Path, kind: str) -> None:
    """By EXIF's index of interoperability, R03; R98 is sRGB."""
    pixels = np.full((32, 32, 3), (120, 200, 80), np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0}
    points = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), (0.3127, 0.329))
    for index, expected in (("R03", between((pixels / 255) ** (563 / 256), points)), ("R98", pixels)):
        tags = Image.Exif()
        tags.get_ifd(0x8769)[0xA001] = 0xFFFF
        tags.get_ifd(0x8769)[0xA005] = {1: index, 2: b"0100"}
        seen = shown(folder, encoded(Image.fromarray(pixels), kind, exif=tags, **options))
        assert np.abs(seen.astype(float) - expected).max() <= 2
