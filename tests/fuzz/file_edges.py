"""The edge to strangers' files: pictures and clips that are nearly good, in a checking process as in the product."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
from PIL import Image

from broadcaster.inspector import InspectionSettings, Inspector
from reelnet.clips import ClipLimits
from reelnet.errors import NodeError, UserError
from reelnet.icc import PRIMARIES, matrix_profile, power
from reelnet.inspection import InputLimits
from reelnet.pipelines import MediaSpec
from tests.fakes.colours import cmyk_profile
from tests.fakes.heic import heic
from tests.fakes.lying_node import png
from tests.fakes.media import Clip
from tests.fuzz import mutation
from tests.fuzz.engine import Case, require

SETTINGS = InspectionSettings(cpu_s=2, timeout_s=10, workers=2)
"""A tenth of what a check may take in the product: a file of this size takes milliseconds."""
MANY = 2_000_000
P3 = matrix_profile(PRIMARIES[12], power(2.2))


@asynccontextmanager
async def files(folder: Path) -> AsyncIterator[Case]:
    """An app's pictures and clips, and a node's outputs: each is taken, or refused by name, within its limits."""
    given, clean = folder / "given", folder / "clean"
    async with Inspector(SETTINGS) as inspector:

        async def case(rng: random.Random) -> None:
            kind = rng.choice(KINDS)
            data = kind.make(rng)
            given.write_bytes(data)
            try:
                if rng.random() < 0.4:
                    spec = MediaSpec(kind.media, 64, 64, *((4, 8) if kind.media == "video" else ()))
                    await inspector.output(data, kind.type, spec, 2**26)
                elif kind.media == "video":
                    await inspector.clip(given, stripped_to=clean, limits=ClipLimits(64, 10, 256 * 256))
                else:
                    await inspector.picture(given, stripped_to=clean, limits=InputLimits(max_pixels=2**20))
            except (UserError, NodeError) as error:
                require(error.code != "over_limits", f"{len(data)} bytes of {kind.type} took a child's whole time")

        yield case


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of file: how it is made, and what it claims to be."""

    make: Callable[[random.Random], bytes]
    type: str
    media: str = "image"


@cache
def _picture(form: str) -> bytes:
    out = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(out, form)
    return out.getvalue()


@cache
def _clip() -> bytes:
    return Clip(64, 64, frames=4, codec="libx264").encode()


def _png(rng: random.Random) -> bytes:
    """A PNG with chunks of chance: counts, sizes and kinds."""
    good = png()
    chunk = _chunk(rng.choice((b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"acTL", b"IDAT", b"PLTE", b"xxXx")), rng)
    many = chunk * rng.choice((1, 1, 3, min(MANY, 24_000_000 // len(chunk))) if rng.random() < 0.3 else (1, 2))
    at = rng.choice((8, 33, len(good) - 12))
    return _maybe_damaged(rng, good[:at] + many + good[at:])


def _chunk(kind: bytes, rng: random.Random) -> bytes:
    body = rng.choice((b"", b"", rng.randbytes(20), b"a\0\0" + zlib.compress(bytes(100_000))))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _jpeg(rng: random.Random) -> bytes:
    good = _picture("JPEG")
    fill = rng.choice((b"\xff" * 8_000_000, b"\xff\x00" * 2_000_000, b"\xff\xfe\x00\x02" * 500_000, b"\xff\xd8" * 100))
    at = rng.choice((2, 20, len(good) // 2, len(good) - 2))
    return _maybe_damaged(rng, good[:at] + fill + good[at:]) if rng.random() < 0.3 else mutation.damaged(rng, good)


def _webp(rng: random.Random) -> bytes:
    good = _picture("WEBP")
    tiny = struct.pack("<4sI", rng.choice((b"EXIF", b"XMP ", b"ALPH", b"ANMF")), 0) * rng.choice((1, 2, 1_000_000))
    body = good[8:] + tiny
    return _maybe_damaged(rng, b"RIFF" + struct.pack("<I", len(body)) + body)


def _other(form: str) -> Callable[[random.Random], bytes]:
    """A picture of a format whose decoder reads its file by itself, with a few bytes changed."""
    return lambda rng: mutation.damaged(rng, _picture(form))


def _profiled(rng: random.Random) -> bytes:
    """A picture whose colour profile is damaged, and its chunks' sums are right."""
    kind, chosen = rng.choice(
        ((b"iCCP", P3), (b"iCCP", cmyk_profile()), (b"cICP", b"\x09\x10\0\1"), (b"gAMA", bytes(4)))
    )
    body = mutation.damaged(rng, chosen)
    body = b"p\0\0" + zlib.compress(body) if kind == b"iCCP" else body
    good = png()
    return (
        good[:33] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) + good[33:]
    )


def _mp4(rng: random.Random) -> bytes:
    good = _clip()
    if rng.random() < 0.5:
        return mutation.damaged(rng, good)
    at = rng.choice(
        [i for i in range(len(good) - 4) if good[i : i + 4] in (b"stts", b"stsz", b"stsc", b"tkhd", b"mdhd")]
    )
    return good[: at + 8] + rng.randbytes(4) + good[at + 12 :]


@cache
def _matroska(kind: str) -> bytes:
    """A clip with sound that no MP4 carries: H.264 with PCM, or VP8 with Vorbis."""
    out, coders = io.BytesIO(), {"matroska": ("libx264", "pcm_s16le"), "webm": ("libvpx", "vorbis")}[kind]
    with av.open(out, "w", format="matroska") as container:
        pictures = container.add_stream(coders[0], rate=8)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"  # type: ignore[union-attr]
        sound = container.add_stream(coders[1], rate=48000, options={"strict": "experimental"}, layout="stereo")
        for index in range(4):
            picture = Image.radial_gradient("L").resize((64, 64)).rotate(20 * index).convert("RGB")
            container.mux(pictures.encode(av.VideoFrame.from_image(picture)))  # type: ignore[union-attr, arg-type]
        silence = av.AudioFrame(format="s16" if kind == "matroska" else "fltp", layout="stereo", samples=4096)
        silence.sample_rate, silence.pts = 48000, 0
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        for stream, frame in ((sound, silence), (sound, None), (pictures, None)):
            container.mux(stream.encode(frame))  # type: ignore[union-attr, arg-type]
    return out.getvalue()


def _maybe_damaged(rng: random.Random, data: bytes) -> bytes:
    return mutation.damaged(rng, data) if rng.random() < 0.3 and len(data) < 1_000_000 else data


KINDS = (
    Kind(_png, "image/png"),
    Kind(_jpeg, "image/jpeg"),
    Kind(_webp, "image/webp"),
    Kind(_profiled, "image/png"),
    Kind(_other("TIFF"), "image/tiff"),
    Kind(_other("GIF"), "image/gif"),
    Kind(_other("BMP"), "image/bmp"),
    Kind(_other("AVIF"), "image/avif"),
    Kind(lambda rng: mutation.damaged(rng, heic(colour=b"prof" + cmyk_profile())), "image/heic"),
    Kind(_mp4, "video/mp4", "video"),
    Kind(lambda rng: mutation.damaged(rng, _matroska("matroska")), "video/mp4", "video"),
    Kind(lambda rng: mutation.damaged(rng, _matroska("webm")), "video/mp4", "video"),
)
