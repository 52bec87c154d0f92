"""FFmpeg's own programs: they make clips that PyAV's do not, and say what a clip is and shows."""

from __future__ import annotations

import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def make(target: Path, *arguments: object) -> bytes:
    """The file that `ffmpeg … target` writes."""
    command = ["ffmpeg", "-v", "error", "-y", "-nostdin", *map(str, arguments), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    return target.read_bytes()


def probe(path: Path) -> dict[str, Any]:
    """What ffprobe says of the container and its streams."""
    command = ["ffprobe", "-v", "error", "-show_format", "-show_streams", "-of", "json", str(path)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def stream(path: Path, kind: str) -> dict[str, Any]:
    """The first stream of a kind, `video` or `audio`."""
    return next(each for each in probe(path)["streams"] if each["codec_type"] == kind)


def times_s(path: Path, kind: str = "video") -> list[float]:
    """When each packet of a kind is shown, in order."""
    command = [
        "ffprobe",
        "-v",
        "error",
        "-select_streams",
        kind[0],
        "-show_entries",
        "packet=pts_time",
        "-of",
        "csv=p=0",
    ]
    lines = subprocess.run([*command, str(path)], check=True, capture_output=True, text=True).stdout.split()
    return sorted(float(line.strip(",")) for line in lines)


def length_s(path: Path) -> Fraction:
    """Seconds of the stream of pictures."""
    return Fraction(stream(path, "video")["duration"])


def pictures(path: Path, *options: object) -> npt.NDArray[np.uint8]:
    """Every frame as it is shown, shape (frames, height, width, 3)."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-fps_mode", "passthrough", *map(str, options)]
    command += ["-f", "image2pipe", "-c:v", "ppm", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    _, width, height, _ = raw[:64].split(maxsplit=3)
    size = int(width) * int(height) * 3
    each = len(f"P6\n{int(width)} {int(height)}\n255\n") + size
    frames = np.frombuffer(raw, np.uint8).reshape(-1, each)[:, each - size :]
    return frames.reshape(-1, int(height), int(width), 3)
