"""Folders for the code that runners compile. It is executed, so each belongs to one pair of image and model alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.engine import RunnerSpec

UNUSED_S = 30 * 86_400.0
"""A pair's folder goes when no runner was started with it for so long."""
CODE, PAIR = "code", "pair.json"
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})


def compiles(spec: RunnerSpec) -> bool:
    """Whether the runner compiles its model."""
    return spec.backend == "diffusers" and spec.flags.get("compile", "").strip().lower() in _TRUE


class CompiledCode:
    """The folders of one node, below `root`.

    A pair is the image's id and the model's files, by place, size and time: an image or weights that change begin with
    an empty folder. Only `code` in a pair's folder is a runner's; `pair.json` beside it says what the pair is, and its
    time when the last runner was started with it.
    """

    def __init__(self, root: Path, now: Callable[[], float] = time.time) -> None:
        self._root = root
        self._now = now
        self._used: set[Path] = set()

    def folder(self, image: str, model: Path, owner: tuple[int, int] | None = None) -> Path:
        """The pair's folder, made where it is missing, and the owner's. What was unused for long is removed.

        Raises OSError.
        """
        pair = {"image": image, "model": str(model.resolve())}
        place = self._root / _key(pair, model)
        code = place / CODE
        for folder in (self._root, place, code):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if owner:
            os.chown(code, *owner)
        (place / PAIR).write_text(json.dumps(pair, indent=1) + "\n", "utf-8")
        self.keep(code)
        self._remove_unused()
        return code

    def keep(self, code: Path) -> None:
        """Notes that a runner has a pair's folder now, this start's or an earlier one's."""
        pair = code.parent / PAIR
        if pair.parent.parent == self._root and pair.exists():
            self._used.add(pair.parent)
            os.utime(pair, (self._now(), self._now()))

    def _remove_unused(self) -> None:
        for pair in self._root.glob(f"*/{PAIR}"):
            with suppress(OSError):
                if pair.parent not in self._used and self._now() - pair.stat().st_mtime > UNUSED_S:
                    shutil.rmtree(pair.parent)


def _key(pair: dict[str, str], model: Path) -> str:
    digest = hashlib.sha256(json.dumps(pair, sort_keys=True).encode())
    for line in _files(model):
        digest.update(line.encode())
    return digest.hexdigest()[:32]


def _files(model: Path) -> Iterator[str]:
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        stat = path.stat()
        yield f"{path.relative_to(model)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
