"""Pictures and clips made on the spot: good ones, damaged ones, and files that claim more than they are."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from PIL import Image, PngImagePlugin

GPS_IFD, ORIENTATION = 0x8825, 0x0112


def pattern(width: int, height: int, shift: int = 0) -> Image.Image:
    """An RGB picture of which no two regions are alike; `shift` makes another one."""
    picture = Image.new("RGB", (width, height))
    picture.putdata(
        [
            ((x * 7 + shift * 31) % 256, (y * 5) % 256, (x * y + shift) % 256)
            for y in range(height)
            for x in range(width)
        ]
    )
    return picture


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    """The picture as a file: PNG, JPEG or WEBP."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int = 1) -> bytes:
    """EXIF with a camera, a comment, an orientation and a place on earth."""
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    tags[0x010F] = "SECRETCAMERA"
    tags.get_ifd(GPS_IFD).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)})
    return tags.tobytes()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_parts(data: bytes, media_type: str, count: int, kind: bytes = b"none", *, first: bool = False) -> bytes:
    """A picture with so many empty parts more, which mean nothing to a decoder, behind its header or `first`."""
    if media_type == "image/jpeg":
        return data[:2] + b"\xff\xfe\x00\x02" * count + data[2:]
    if media_type == "image/png":
        at = 8 if first else data.index(b"IDAT") - 4
        return data[:at] + png_chunk(kind, b"") * count + data[at:]
    body = data[12:] + struct.pack("<4sI", kind, 0) * count
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG of 32 × 32 with so many scans, the last one repeated."""
    data = encoded(pattern(32, 32), "JPEG", progressive=True)
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    return data[:-2] + data[starts[-1] : -2] * (count - len(starts)) + data[-2:]


def png_claiming(width: int, height: int, rows: int = 0) -> bytes:
    """A small PNG that claims a size: one bit a pixel, `rows` black rows and then its end."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = zlib.compress(bytes((1 + (width + 7) // 8) * rows))
    chunks = (b"IHDR", header), (b"IDAT", body), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def noisy_png() -> bytes:
    """A PNG with every kind of text, a time, EXIF and a private chunk, and a file behind its end."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Comment", "SECRETCAMERA text")
    texts.add_text("Software", "SECRETCAMERA compressed", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", "<x>SECRETCAMERA</x>", "en", "x")
    texts.add(b"tIME", bytes(7))
    texts.add(b"prVt", b"SECRETCAMERA", after_idat=True)
    return encoded(pattern(40, 30), "PNG", pnginfo=texts, exif=exif(), gamma=2.2) + b"<html>SECRETCAMERA</html>"


@dataclass(frozen=True)
class Clip:
    """An MP4 to be made. `moving`: whether its frames differ; `sound`: whether it has a tone; `rotation`: in degrees.

    `uneven`: every third frame is shown longer than the others.
    `place`: what its metadata says. `crf`: H.264's quality.
    """

    width: int = 64
    height: int = 48
    frames: int = 14
    fps: int | Fraction = 6
    codec: str = "libx264"
    moving: bool = True
    sound: bool = False
    rotation: int = 0
    uneven: bool = False
    place: str = ""
    space: int = 2
    sound_codec: str = "aac"
    pixels: str = "yuv420p"
    smooth: bool = False
    crf: int = 23

    def encode(self) -> bytes:
        """The clip as a file, its index in front where the container can."""
        out = io.BytesIO()
        with av.open(out, "w", format="mp4") as container:
            if self.place:
                container.metadata["title"] = self.place
            # x264's macroblock tree reads memory that nobody wrote: with it equal frames give one of several files.
            steady = {"x264-params": "mbtree=0", "crf": str(self.crf)} if self.codec == "libx264" else {}
            stream = container.add_stream(self.codec, rate=self.fps, options={"threads": "1"} | steady)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pixels
            if self.space != 2:
                stream.codec_context.colorspace = self.space
            if self.rotation:
                stream.set_display_rotation(self.rotation)
            tone = container.add_stream(self.sound_codec, rate=48000, layout="mono") if self.sound else None
            ticks = 0
            for index in range(self.frames):
                frame = av.VideoFrame.from_image(self._picture(index if self.moving else 0))
                if self.space != 2:
                    frame = frame.reformat(format="yuv420p", dst_colorspace=self.space)
                if self.uneven:
                    stream.codec_context.time_base = frame.time_base = Fraction(1, 1000)
                    frame.pts, ticks = ticks, ticks + (50 if index % 3 == 0 else 20)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if tone:
                for frame in _tone(self.frames / self.fps):
                    container.mux(tone.encode(frame))
                container.mux(tone.encode())
        return out.getvalue()

    def _picture(self, index: int) -> Image.Image:
        if not self.smooth:
            return pattern(self.width, self.height, index)
        turned = Image.linear_gradient("L").rotate(30 + 20 * index)
        return turned.resize((self.width, self.height)).convert("RGB")


def _tone(seconds: float | Fraction) -> Iterator[av.AudioFrame]:
    """A tone at 48 kHz, in frames of 1024 samples."""
    for start in range(0, int(seconds * 48000), 1024):
        wave = np.sin(np.arange(start, start + 1024) * 0.05).astype(np.float32)[None, :]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, start
        yield frame
