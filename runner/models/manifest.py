"""A stored model's reelnet.json: where it came from, its licence, and the digest of each of its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reelnet.jobs import Licence
from runner.backend import SetupError
from runner.models.digest import CARD, digest_of, model_files, read_json, sha256_of


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file's size in bytes and its sha256 as hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a model was when it was stored; `files` by their paths below its folder, with `/`.

    `source` says where it came from: {"kind": hub|folder|file, "revision": …}, all of them texts.
    """

    model: str
    licence: Licence
    files: Mapping[str, FileFacts]
    source: Mapping[str, str] = field(default_factory=dict)
    licence_accepted: bool = False

    @property
    def digest(self) -> str:
        """As `ModelFiles.digest`: what a runner says of the model."""
        return digest_of((path, facts.size, facts.sha256) for path, facts in sorted(self.files.items()))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(facts.size for facts in self.files.values())

    def to_document(self) -> dict[str, Any]:
        """The manifest as it stands in reelnet.json."""
        return {
            "model": self.model,
            "licence": {"id": self.licence.id, "commercial": self.licence.commercial},
            "licence_accepted": self.licence_accepted,
            "source": dict(self.source),
            "digest": self.digest,
            "files": {path: {"size": f.size, "sha256": f.sha256} for path, f in sorted(self.files.items())},
        }


def files_in(folder: Path) -> dict[str, FileFacts]:
    """The files of a model as they are now. Raises OSError."""
    return {
        path.relative_to(folder).as_posix(): FileFacts(path.stat().st_size, sha256_of(path))
        for path in model_files(folder)
    }


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None when it has none that lists its files. Raises SetupError when it is damaged."""
    if not (folder / CARD).exists():
        return None
    stated = read_json(folder / CARD)
    if "files" not in stated:
        return None
    try:
        return _manifest(stated)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SetupError(f"{folder / CARD}: damaged ({error}); pull or import the model again") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes reelnet.json; what it said before is lost. Raises OSError."""
    draft = folder / f".{CARD}.part"
    draft.write_text(json.dumps(manifest.to_document(), indent=2) + "\n", "utf-8")
    draft.chmod(0o644)
    sync(draft)
    draft.rename(folder / CARD)


def differences(folder: Path, manifest: Manifest) -> Iterator[str]:
    """One line for each file that is not as the manifest says: changed, missing or added. Raises OSError."""
    found = {path.relative_to(folder).as_posix(): path for path in model_files(folder)}
    for name, facts in sorted(manifest.files.items()):
        path = found.pop(name, None)
        if path is None:
            yield f"{name}: missing"
        elif path.stat().st_size != facts.size:
            yield f"{name}: {path.stat().st_size} bytes instead of {facts.size}"
        elif sha256_of(path) != facts.sha256:
            yield f"{name}: its content differs"
    for name in sorted(found):
        yield f"{name}: was added"


def sync(path: Path) -> None:
    """Has a file's content written to the disk before it gets its final name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _manifest(stated: Mapping[str, Any]) -> Manifest:
    licence = stated["licence"]
    return Manifest(
        model=str(stated["model"]),
        licence=Licence(str(licence["id"]), str(licence["commercial"])),
        files={str(path): FileFacts(int(f["size"]), str(f["sha256"])) for path, f in stated["files"].items()},
        source={str(key): str(value) for key, value in stated.get("source", {}).items()},
        licence_accepted=bool(stated.get("licence_accepted", False)),
    )
