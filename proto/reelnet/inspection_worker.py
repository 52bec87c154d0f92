"""The child process that decodes strangers' files: JSON lines in, JSON lines out, under limits it sets itself.

A request names a file by its `path`, or says in `bytes` how many bytes of it follow the line, or lie in the box. A
clip's has `more_cpu_s`, the CPU seconds that it may take beyond those of a picture.

Started as `python -m reelnet.inspection_worker <WorkerLimits as JSON> <descriptor of the box>`; it says
`{"ready": true}`, answers one line with one line, and ends when its input does. Answers are `{"ok": facts}`,
`{"error": …}` (see `pack_error`) or `{"fault": text}` (this machine's fault, nobody else's). A file that takes more
than the limits ends the process. It opens no connection, and the files it is told of are the only ones it opens.
"""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json, to_json

from reelnet.clips import ClipFacts, ClipLimits, inspect_clip
from reelnet.errors import ReelnetError, from_class
from reelnet.inspection import Handling, InputLimits, OutputFacts, PictureFacts, check_output, inspect_picture
from reelnet.lifecycle import settle_memory
from reelnet.pipelines import MediaSpec

OPEN_FILES = 32
EXIT_OVER_LIMITS = 4


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """What the kernel allows the process: bytes of address space, CPU seconds a request, bytes of a file it writes."""

    memory_bytes: int
    cpu_s: int
    file_bytes: int
    requests: int


def pack_error(error: ReelnetError) -> dict[str, Any]:
    """An error as JSON values, whole enough to be raised again on the other side."""
    return {
        "class": error.failure.value,
        "code": error.code,
        "message": error.message,
        "http_status": error.http_status,
        "loc": list(error.loc),
    }


def unpack_error(packed: Mapping[str, Any]) -> ReelnetError:
    """The same error of the same class. Raises KeyError when the values are not those of `pack_error`."""
    bare = from_class(packed["class"], packed["message"], code=packed["code"])
    return type(bare)(bare.message, code=bare.code, loc=tuple(packed["loc"]), http_status=packed["http_status"])


def picture(request: Mapping[str, Any], data: bytes) -> PictureFacts:
    """The facts of an input picture as it goes to a node, and its file, where the request names a place for one."""
    limits, target = request["limits"], request["stripped_to"]
    bounds = InputLimits(**limits | {"formats": tuple(limits["formats"])})
    handling = Handling(**request["handling"] | {"background": tuple(request["handling"]["background"])})
    return inspect_picture(Path(request["path"]), bounds, handling, stripped_to=Path(target) if target else None)


def clip(request: Mapping[str, Any], data: bytes) -> ClipFacts:
    """The facts of an input clip, as of its copy without metadata."""
    return inspect_clip(Path(request["path"]), Path(request["stripped_to"]), ClipLimits(**request["limits"]))


def output(request: Mapping[str, Any], data: bytes) -> Any:
    """The facts of a node's output."""
    spec = MediaSpec(**request["spec"])
    source = Path(request["path"]) if request["path"] else data
    return check_output(source, request["media_type"], spec, request["max_bytes"])


_FACTS = {kind: tuple(field.name for field in fields(kind)) for kind in (PictureFacts, ClipFacts, OutputFacts)}
_CHECKS: dict[str, Callable[[Mapping[str, Any], bytes], Any]] = {"picture": picture, "clip": clip, "output": output}


def answer(request: Mapping[str, Any], data: bytes = b"") -> dict[str, Any]:
    """The answer to one request. Raises MemoryError when the check needs more than the limits."""
    try:
        facts = _CHECKS[request["check"]](request, data)
        return {"ok": {name: getattr(facts, name) for name in _FACTS[type(facts)]}}
    except ReelnetError as error:
        return {"error": pack_error(error)}
    except OSError as error:
        if error.errno in {errno.EFBIG, errno.ENOMEM}:
            raise MemoryError from error
        return {"fault": str(error)}


def serve(requests: BinaryIO, answers: BinaryIO, limits: WorkerLimits, box: int = -1) -> None:
    """Answers line after line until the input ends."""
    _say(answers, {"ready": True})
    for line in requests:
        request = from_json(line)
        _allow_cpu(limits.cpu_s + request.get("more_cpu_s", 0))
        size = request.get("bytes", 0)
        data = os.pread(box, size, 0) if request.get("boxed") else requests.read(size)
        _say(answers, answer(request, data))


def _say(answers: BinaryIO, value: Mapping[str, Any]) -> None:
    answers.write(to_json(value) + b"\n")
    answers.flush()


def _allow_cpu(seconds: int) -> None:
    """SIGXCPU, which nobody catches, ends the process after that much more CPU time."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (min(math.ceil(time.process_time()) + seconds, hard), hard))


def confine(limits: WorkerLimits) -> None:
    """Sets the process's limits for good. The address space counts the libraries' 0.3 GiB too."""
    cpu_s = math.ceil(time.process_time()) + (limits.cpu_s + 1) * limits.requests
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))


def _load_decoders() -> None:
    """Loads them here, so that no request pays for it, and not in the parent, which takes its types from this file."""
    import av
    import pi_heif  # noqa: F401
    from PIL import (  # noqa: F401
        AvifImagePlugin,
        BmpImagePlugin,
        GifImagePlugin,
        ImageCms,
        JpegImagePlugin,
        PngImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    av.logging.set_level(av.logging.PANIC)


def main() -> None:
    """Runs the process. What a library prints goes to standard error, never between the answers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this process's input
    os.umask(0o077)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _load_decoders()
    settle_memory()
    limits = WorkerLimits(**json.loads(sys.argv[1]))
    confine(limits)
    try:
        serve(sys.stdin.buffer, answers, limits, int(sys.argv[2]))
    except MemoryError:
        sys.exit(EXIT_OVER_LIMITS)


if __name__ == "__main__":
    main()
