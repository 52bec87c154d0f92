"""The child process that decodes what nodes delivered: `python -m benchmark.examiner`, JSON lines in and out.

Strangers' files are decoded here, under limits, and never in the benchmark: no decoder's fault is its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark.client import MAX_OUTPUT_BYTES
from benchmark.look import look_at_clip, look_at_picture
from reelnet.errors import NodeError, ReelnetError
from reelnet.inspection import MP4, check_output
from reelnet.inspection_worker import WorkerLimits, confine, pack_error
from reelnet.pipelines import MediaSpec

LIMITS = WorkerLimits(memory_bytes=2 * 2**30, cpu_s=120, file_bytes=0, requests=100_000)


def examine(request: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of one output and its look. Raises NodeError as `reelnet.inspection.check_output` does."""
    path, media_type = Path(request["path"]), str(request["media_type"])
    facts = check_output(path, media_type, MediaSpec(**request["spec"]), MAX_OUTPUT_BYTES)
    look = look_at_clip(path) if media_type == MP4 else look_at_picture(path.read_bytes())
    return {
        **asdict(facts),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "repeated": look.repeated,
        "thumbs": base64.b64encode(look.thumbs.tobytes()).decode(),
    }


def answer(line: bytes) -> dict[str, Any]:
    """The answer to one request line: `{"ok": facts}` or `{"error": …}`."""
    try:
        return {"ok": examine(json.loads(line))}
    except ReelnetError as error:
        return {"error": pack_error(error)}
    except (MemoryError, OSError) as error:
        return {"error": pack_error(NodeError(f"it cannot be decoded: {type(error).__name__}", code="over_limits"))}


def main() -> None:
    """Answers line after line until the input ends. What a library prints goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this process's input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _load_decoders()
    confine(LIMITS)
    for line in sys.stdin.buffer:
        answers.write(json.dumps(answer(line)).encode() + b"\n")
        answers.flush()


def _load_decoders() -> None:
    """Before the limits hold."""
    import av
    from PIL import JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401

    av.logging.set_level(av.logging.PANIC)


if __name__ == "__main__":
    main()
