"""A job's outputs as they arrive: written to files, in order, bounded, and compared with what is said of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from benchmark.client import MAX_OUTPUT_BYTES
from reelnet.errors import NodeError


class Arrival:
    """The outputs of one job. Each method raises NodeError for what no honest sender does."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._types: list[str] = []
        self._file: BinaryIO | None = None
        self._size = 0
        self._digest = hashlib.sha256()

    def begin(self, index: int, media_type: str) -> None:
        """The next output begins."""
        if self._file or index != len(self._types) or index >= len(self._paths):
            raise NodeError(f"output {index} came where {len(self._types)} was expected", code="count")
        self._types.append(media_type)
        self._file = self._paths[index].open("wb")
        self._size, self._digest = 0, hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Bytes of the output that began last."""
        if self._file is None:
            raise NodeError("bytes before any output", code="protocol")
        self._size += len(data)
        if self._size > MAX_OUTPUT_BYTES:
            raise NodeError(f"the output has more than {MAX_OUTPUT_BYTES} bytes", code="bytes")
        self._digest.update(data)
        self._file.write(data)

    def end(self, size: int, sha256: str) -> None:
        """The output is complete, as its sender says of that size and digest (hex)."""
        found = (self._size, self._digest.hexdigest())
        self.close()
        if found != (size, sha256):
            raise NodeError("the output is not what its sender says (size or digest)", code="digest")

    def close(self) -> None:
        """Closes a file that is still open."""
        if self._file:
            self._file.close()
            self._file = None

    def whole(self) -> tuple[tuple[Path, str], ...]:
        """Each file with its claimed media type, once all have come."""
        if self._file or len(self._types) != len(self._paths):
            raise NodeError(f"{len(self._types)} outputs instead of {len(self._paths)}", code="count")
        return tuple(zip(self._paths, self._types, strict=True))
