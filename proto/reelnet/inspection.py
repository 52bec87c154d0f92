"""Is this file what was asked? Checks over files, for runner, broadcaster and benchmark alike.

Sizes are read from headers and bounded before anything is decoded. Pillow and PyAV are imported where a file is
decoded, so that a process which only names these types needs neither. Strangers' files belong into a child process
with limits: see `reelnet.inspection_worker`.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from reelnet import looks, picture_formats
from reelnet.colours import WHITE, Claims, DepthError, Seen, hides, in_srgb, laid_on, see_through, without_hidden
from reelnet.errors import NodeError, UserError, printable
from reelnet.metadata import (
    JPEG,
    PNG,
    PNG_SIGNATURE,
    WEBP,
    Anatomy,
    BrokenPictureError,
    TooManyPartsError,
    claimed_size,
    dissect,
    open_picture,
    upright,
)
from reelnet.picture_formats import WALKED, Opened, SeveralError, UnreadKindError, kind_of, named
from reelnet.pipelines import MediaSpec, Size
from reelnet.strict_frames import strict_frames

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream
    from PIL import Image

MP4 = "video/mp4"
EXTENSIONS = {PNG: "png", JPEG: "jpg", WEBP: "webp", MP4: "mp4"}
"""The media types that there are, with the endings of their files."""
HEAD_BYTES = 32  # as many as `sniff` needs
_MP4_BRANDS = (b"isom", b"iso2", b"iso3", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ")
_FPS_TOLERANCE = Fraction(1, 100)
# What Pillow's decoders raise on damaged files, beside its own errors (which are OSError).
_DECODE_ERRORS: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError)
_DECODE_ERRORS += (OverflowError, struct.error, zlib.error)


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Bounds of an input picture; sides in pixels."""

    max_pixels: int = 50_000_000
    max_side: int = 16384
    min_side: int = 16
    formats: tuple[str, ...] = tuple(picture_formats.NAMES)


@dataclass(frozen=True, slots=True)
class Handling:
    """What becomes of an input picture on its way in.

    `keep_alpha`: its transparency stays; else it is laid on `background` (red, green, blue, 0-255). `most_pixels`: a
    picture of more is refused, or made smaller where `fit` says so; 0 for no such bound.
    """

    background: tuple[int, int, int] = WHITE
    keep_alpha: bool = False
    most_pixels: int = 0
    fit: bool = False


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """An input picture that was decoded whole, as it goes to a node: upright, in 8-bit sRGB.

    `size` and `sha256` (hex) are that file's. `constant`: one colour all over, within a small tolerance.
    `fingerprint`: 64 bits in hex, equal for pictures that look alike (a difference hash of 9 × 8 greys).
    `notes`: codes and sentences of what was not kept of it.
    """

    media_type: str
    width: int
    height: int
    size: int
    sha256: str
    constant: bool
    fingerprint: str
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> Size:
        """What the job's work and promises follow from."""
        return Size(self.width, self.height)


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """An output that passed the hard checks. `frames` and `fps` are None for a picture.

    Soft facts, for an audit and no failure by themselves: `constant` and `fingerprint` are of the first frame (see
    PictureFacts), `still` says that all frames of a clip are equal; it is False for a picture.
    """

    media_type: str
    width: int
    height: int
    size: int
    frames: int | None
    fps: float | None
    constant: bool
    still: bool
    fingerprint: str


def sniff(head: bytes) -> str | None:
    """The media type that a file's first bytes show (image/png, image/jpeg, image/webp, video/mp4), or None."""
    if head.startswith(PNG_SIGNATURE):
        return PNG
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return WEBP
    if head[4:8] == b"ftyp" and head[8:12] in _MP4_BRANDS:
        return MP4
    return None


def inspect_picture(
    path: Path,
    limits: InputLimits = InputLimits(),
    handling: Handling = Handling(),
    *,
    stripped_to: Path | None = None,
) -> PictureFacts:
    """The facts of an app's picture. An animated one is refused: which frame was meant is not ours to guess.

    With `stripped_to` the picture that goes to a node is written there: the file without metadata where a screen shows
    it as it is coded, else a PNG of what a screen shows. Facts are that file's. It is decoded once.

    Raises UserError, `loc` ("image",): 413 `too_large` from the header alone, 415 `not_a_picture`, `damaged`, `depth`,
    `too_many_parts` or `animated`, 422 `too_small`.
    """
    read = read_picture(path.read_bytes(), limits, handling)
    data, media_type = (_png(read.picture), PNG) if read.changed else (read.kept, read.media_type)
    if stripped_to:
        stripped_to.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    looked = looks.constant(read.picture), looks.fingerprint(read.picture)
    return PictureFacts(media_type, *read.picture.size, len(data), digest, *looked, read.notes)


@dataclass(frozen=True, slots=True)
class Read:
    """A picture as it is to be seen: upright, in sRGB, of mode L, LA, RGB or RGBA.

    `kept`: its file without metadata, which shows the same unless `changed`. `notes` as in PictureFacts.
    """

    picture: Image.Image
    media_type: str
    kept: bytes
    changed: bool
    notes: tuple[tuple[str, str], ...]


def read_picture(data: bytes, limits: InputLimits, handling: Handling = Handling()) -> Read:
    """A picture of any format in `limits`, decoded once. Raises UserError as `inspect_picture`."""
    head = data[: picture_formats.HEAD_BYTES]
    media_type = kind_of(head)
    if media_type is None or media_type not in limits.formats:
        raise _no_picture(named(head), limits)
    try:
        stored, opened, kept = _input_picture(data, media_type, limits, handling)
        seen = in_srgb(stored, opened.claims)
    except TooManyPartsError as error:
        raise _refusal(f"the picture has {error}; save it anew", "too_many_parts") from None
    except BrokenPictureError as error:
        raise _refusal(f"the picture is damaged or cut off: {error}", "damaged") from None
    except SeveralError as error:
        raise _refusal(f"the picture {error}", "animated") from None
    except UnreadKindError as error:
        raise _no_picture(str(error), limits) from None
    except DepthError as error:
        raise _refusal(f"the picture cannot be shown: {error}", "depth") from None
    made = _as_handled(seen, opened.orientation, handling)
    changed = made.changed or media_type not in WALKED
    return Read(made.picture, media_type, kept, changed, (seen.note,) if seen.note else ())


def _input_picture(
    data: bytes, media_type: str, limits: InputLimits, handling: Handling
) -> tuple[Image.Image, Opened, bytes]:
    """A picture as stored, decoded whole, what its file says of it, and the file without metadata where it is walked.

    Raises UserError for its size, and BrokenPictureError, SeveralError and UnreadKindError.
    """
    if media_type in WALKED:
        size = claimed_size(data, media_type)
        _check_bounds(*size, limits, handling)
        picture, found, kept = _decode(data, media_type, size)
        return picture, Opened(picture, found.orientation, _claims(picture, found)), kept
    try:
        opened = picture_formats.open_unwalked(data, media_type)
        size = opened.picture.size
        _check_bounds(*size, limits, handling)
        picture_formats.load(opened)
    except _unwalked_errors() as error:
        raise BrokenPictureError(printable(str(error), 200)) from None
    if sorted(opened.picture.size) != sorted(size):
        raise BrokenPictureError("it says two sizes")
    return opened.picture, opened, b""


def _claims(picture: Image.Image, found: Anatomy) -> Claims:
    icc = picture.info.get("icc_profile", b"")
    broken = icc is None or (not icc and b"iCCP" in found.chunks)
    return Claims(found.bits, False, found.chunks, None if broken else icc, found.adobe_rgb)


def _unwalked_errors() -> tuple[type[Exception], ...]:
    from PIL import Image

    return (
        *_DECODE_ERRORS,
        RuntimeError,
        AssertionError,
        ArithmeticError,
        AttributeError,
        Image.DecompressionBombError,
    )


def _as_handled(seen: Seen, orientation: int, handling: Handling) -> Seen:
    """The picture upright, within its bound, and with transparency only where that is kept."""
    picture, changed = seen.picture, seen.changed or orientation != 1
    if see_through(picture) and not handling.keep_alpha:
        picture, changed = laid_on(picture, handling.background), True
    elif hides(picture):
        picture, changed = without_hidden(picture), True
    size = picture.width * picture.height
    if handling.most_pixels and size > handling.most_pixels:
        picture, changed = _smaller(picture, handling.most_pixels), True
    return Seen(upright(picture, orientation), changed)


def _smaller(picture: Image.Image, most_pixels: int) -> Image.Image:
    """The picture with its aspect kept and at most so many pixels; a side has one at least."""
    from PIL import Image

    scale = math.sqrt(most_pixels / (picture.width * picture.height))
    width, height = (max(1, math.floor(side * scale)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _png(picture: Image.Image) -> bytes:
    """The picture as a PNG that says nothing of itself: a reader takes it for sRGB."""
    picture.info = {}
    out = io.BytesIO()
    # Level 1: a 12-megapixel photo takes 0.3 s instead of 3 s, and is 10% larger.
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def check_output(source: Path | bytes, claimed_media_type: str, spec: MediaSpec, max_bytes: int) -> OutputFacts:
    """The facts of a node's output, a file or its bytes, that is what `spec` promises.

    Raises NodeError with the first hard check that fails as its code: `bytes` (longer than `max_bytes`), `media_type`
    (not what it claims, or not the kind promised), `size` (width or height), `damaged` (does not decode whole),
    `too_many_parts`, `frames`, `fps`, `sound`.
    """
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    if size > max_bytes:
        raise NodeError(f"the output has {size} bytes; at most {max_bytes} are allowed", code="bytes")
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        _check_media_type(file.read(HEAD_BYTES), claimed_media_type, spec)
        file.seek(0)
        return _check_whole(file, size, claimed_media_type, spec)


def _check_whole(file: BinaryIO, size: int, media_type: str, spec: MediaSpec) -> OutputFacts:
    try:
        if spec.kind == "video":
            return _check_clip(file, size, media_type, spec)
        return _check_still_picture(file.read(), media_type, spec)
    except TooManyPartsError as error:
        raise NodeError(f"the output has {error}", code="too_many_parts") from None
    except BrokenPictureError as error:
        raise NodeError(f"the output is damaged or cut off: {error}", code="damaged") from None
    except SeveralError:
        raise NodeError("the output is animated; a single picture was asked", code="frames") from None


def _refusal(message: str, code: str, http_status: int = 415) -> UserError:
    return UserError(message, code=code, http_status=http_status, loc=("image",))


def _no_picture(name: str, limits: InputLimits) -> UserError:
    names = [picture_formats.NAMES[media_type] for media_type in limits.formats]
    expected = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return _refusal(f"this is {name or 'no picture'}: expected {expected}", "not_a_picture")


def _check_bounds(width: int, height: int, limits: InputLimits, handling: Handling) -> None:
    bound = handling.most_pixels if handling.most_pixels and not handling.fit else limits.max_pixels
    most, advice = min(limits.max_pixels, bound), ""
    if handling.most_pixels and width * height <= limits.max_pixels:
        advice = "; fit_input=true makes it smaller here"
    if width * height > most:
        claim = f"{width}×{height} = {width * height / 1e6:.1f} megapixels"
        allowed = f"at most {most / 1e6:.1f} are allowed"
        raise _refusal(f"the picture is {claim}; {allowed}{advice}", "too_large", 413)
    if max(width, height) > limits.max_side:
        raise _refusal(f"the picture is {width}×{height}; at most {limits.max_side} a side", "too_large", 413)
    if min(width, height) < limits.min_side:
        raise _refusal(f"the picture is {width}×{height}; at least {limits.min_side} a side", "too_small", 422)


def _decode(data: bytes, media_type: str, size: tuple[int, int]) -> tuple[Image.Image, Anatomy, bytes]:
    """The picture as stored, decoded whole, what its file is, and the bytes of it that were decoded.

    Raises BrokenPictureError and SeveralError. The decoder never sees the metadata: Pillow's readers of it are as
    large as those of pixels.
    """
    found, kept = dissect(data, media_type)
    if found.animated:
        raise SeveralError("is animated; send one frame of it")
    try:
        picture = open_picture(kept, media_type)
        if picture.size == size:
            picture.load()
            return picture, found, kept
    except _DECODE_ERRORS as error:
        raise BrokenPictureError(printable(str(error), 200)) from None
    raise BrokenPictureError("it says two sizes")


def _check_media_type(head: bytes, claimed: str, spec: MediaSpec) -> None:
    sniffed = sniff(head)
    if sniffed is None or sniffed != claimed:
        raise NodeError(
            f"the output is {sniffed or 'of no known type'}, not {printable(claimed, 64)}", code="media_type"
        )
    if sniffed.split("/")[0] != spec.kind:
        raise NodeError(f"the output is {sniffed}; a job like this gives {spec.kind}s", code="media_type")
    if spec.media_type not in (None, sniffed):
        raise NodeError(f"the output is {sniffed}; {spec.media_type} was asked", code="media_type")


def _check_size(width: int, height: int, spec: MediaSpec) -> None:
    if (width, height) != (spec.width, spec.height):
        raise NodeError(f"the output is {width}×{height}; {spec.width}×{spec.height} was asked", code="size")


def _check_still_picture(data: bytes, media_type: str, spec: MediaSpec) -> OutputFacts:
    size = claimed_size(data, media_type)
    _check_size(*size, spec)
    picture, _, _ = _decode(data, media_type, size)
    return OutputFacts(
        media_type, *size, len(data), None, None, looks.constant(picture), False, looks.fingerprint(picture)
    )


def _check_clip(file: BinaryIO, size: int, media_type: str, spec: MediaSpec) -> OutputFacts:
    import av

    decode_errors: tuple[type[Exception], ...] = (*_DECODE_ERRORS, av.FFmpegError)
    # An open file and no path, so that nothing in the clip can make FFmpeg open another one.
    try:
        with av.open(file, "r", format="mp4", metadata_errors="replace") as container:
            stream = _video_stream(container, spec)
            constant, still, fingerprint, rate = _decode_clip(container, stream, spec)
    except decode_errors as error:  # also where FFmpeg is asked for too much memory
        raise BrokenPictureError(printable(str(error), 200)) from None
    return OutputFacts(media_type, spec.width, spec.height, size, spec.frames, rate, constant, still, fingerprint)


def _video_stream(container: InputContainer, spec: MediaSpec) -> VideoStream:
    """The clip's stream of pictures, coded as was asked."""
    if sorted(stream.type for stream in container.streams) != ["audio", "video"][not spec.sound :]:
        asked = "one of video and one of sound" if spec.sound else "one of video"
        raise NodeError(f"the output has other streams than {asked}", code="media_type")
    stream = container.streams.video[0]
    context = stream.codec_context
    codec = context.codec.canonical_name if context else "something unknown"
    if codec != spec.codec:
        raise NodeError(f"the output is coded as {codec}; {spec.codec} was asked", code="media_type")
    _check_size(context.width, context.height, spec)
    return stream


def _decode_clip(container: InputContainer, stream: VideoStream, spec: MediaSpec) -> tuple[bool, bool, str, float]:
    """Decodes every frame, none beyond those asked. Constant, still, fingerprint and rate, as OutputFacts has them."""
    first: tuple[bool, str] = (False, "")
    thumbs: set[bytes] = set()
    sound = hashlib.sha256()
    moments: list[int] = []
    for count, frame in enumerate(strict_frames(container, stream, sound), start=1):
        _check_most(count, spec)
        _check_size(frame.width, frame.height, spec)
        if count == 1:
            picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
            first = looks.constant(picture), looks.fingerprint(picture)
        thumbs.add(looks.thumb(frame))
        moments.append(frame.pts or 0)
    _check_count(len(moments), spec)
    rate = _check_rate(mean_rate(stream, moments), spec)
    if spec.sound and sound.hexdigest() != spec.sound:
        raise NodeError("the output's sound is not the input's", code="sound")
    return first[0], looks.alike(thumbs), first[1], rate


def mean_rate(stream: VideoStream, moments: list[int]) -> Fraction | None:
    """Frames a second by the moments at which frames are shown; of one frame as its stream says. None when unknown.

    A stream's own mean counts from when frames are decoded, which is another time where frames come unevenly.
    """
    span = max(moments, default=0) - min(moments, default=0)
    if len(moments) < 2:
        return stream.average_rate if moments else None
    return Fraction(len(moments) - 1) / (span * stream.time_base) if span > 0 and stream.time_base else None


def _check_most(count: int, spec: MediaSpec) -> None:
    if count > (spec.frames or 0):
        raise NodeError(f"the clip has more than {spec.frames} frames; {spec.frames} were asked", code="frames")


def _check_count(count: int, spec: MediaSpec) -> None:
    if count != spec.frames:
        raise NodeError(f"the clip has {count} frames; {spec.frames} were asked", code="frames")


def _check_rate(rate: Fraction | None, spec: MediaSpec) -> float:
    asked = spec.rate
    if rate is None or asked is None or abs(rate - asked) > asked * _FPS_TOLERANCE:
        found = "no known rate" if rate is None else f"{float(rate):.4g} frames a second"
        raise NodeError(f"the clip has {found}; {float(asked or 0):.4g} were asked", code="fps")
    return float(rate)
