"""Which folder of the host a container needs in order to see a model, with its links, and nothing more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.docker_container import Weights
from orchestrator.engine import EngineError

LINKS_DEEP = 40
"""Links that may lead to links, as the kernel has it."""


def weights_of(model: Path, reader: int | None = None) -> Weights:
    """The folder to mount for a model: its own, or the cache that its links lead into. Raises EngineError.

    A Hugging Face cache keeps files in `<repo>/blobs` and links to them in `<repo>/snapshots/<revision>`: of such a
    snapshot the repo's folder is mounted. `reader` is the uid that has to be able to read, None for this process' own.
    """
    folder = model.resolve()
    if not folder.is_dir():
        raise EngineError(f"{model}: the model's folder is missing; put the model there")
    source = _root(folder)
    for path in _entries(folder):
        _check_links(path, source)
        if reader is not None:
            _check_readable(path, source, reader)
    return Weights(source, folder.relative_to(source).as_posix())


def _root(folder: Path) -> Path:
    in_cache = folder.parent.name == "snapshots" and (folder.parent.parent / "blobs").is_dir()
    return folder.parent.parent if in_cache else folder


def _entries(folder: Path) -> Iterator[Path]:
    yield folder
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files))


def _check_links(path: Path, source: Path) -> None:
    """Each hop has to be relative and to stay below `source`: a container has no other part of the host."""
    at = path
    for _ in range(LINKS_DEEP):
        if not at.is_symlink():
            break
        target = at.readlink()
        at = Path(os.path.normpath(at.parent / target))
        if target.is_absolute() or not at.is_relative_to(source):
            raise EngineError(
                f"{path}: the link leads out of {source}, to {target}, which a container does not see; "
                "replace it by the file, or by a relative link within the folder"
            )
    if not at.exists():
        raise EngineError(f"{path}: the link leads to nothing; fetch the model again")


def _check_readable(path: Path, source: Path, reader: int) -> None:
    """The file behind a link, and the folders on the way to it; those above `source` do not matter in a container."""
    real = path.resolve()
    for at in (real, *(above for above in real.parents if above.is_relative_to(source))):
        status = at.stat()
        needed = 0o5 if at.is_dir() else 0o4
        if status.st_uid != reader and status.st_mode & needed != needed:
            raise EngineError(
                f"{at}: the runner's user ({reader}) cannot read it; allow it (chmod -R a+rX {source}), "
                "or start the node as the user who owns the files"
            )
