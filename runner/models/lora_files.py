"""The LoRAs that an operator allows, as files: found, whole, no pickles, with a digest each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner.backend import SetupError
from runner.models.digest import PICKLES, WEIGHTS, check_whole, sha256_of
from runner.models.lora_kinds import check_kind
from runner.settings import Lora, RunnerSettings


@dataclass(frozen=True, slots=True)
class LoraFile:
    """One LoRA: its id, its safetensors file, that file's sha256 as hex, and the net that it is for (None: all)."""

    id: str
    path: Path
    sha256: str
    net: str | None = None


def survey_loras(settings: RunnerSettings) -> tuple[LoraFile, ...]:
    """The LoRAs of the settings, in their order. Raises SetupError that says which is missing, broken or no LoRA."""
    return tuple(_survey(lora, settings.lora_folder(lora)) for lora in settings.loras)


def _survey(lora: Lora, folder: Path) -> LoraFile:
    path = _file(lora, folder)
    check_whole(path)
    check_kind(path)
    return LoraFile(lora.advertised_id, path, sha256_of(path), lora.net)


def _file(lora: Lora, folder: Path) -> Path:
    if not folder.is_dir():
        raise SetupError(f"loras: {folder}: there is no such folder; put the LoRA there or name another")
    if lora.file is not None:
        path = folder / lora.file
        if path.parent != folder or path.suffix not in WEIGHTS or not path.is_file():
            raise SetupError(f"loras: {path}: there is no such safetensors file")
        return path
    found = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise SetupError(f"loras: {folder}: has more than one file ({names}); name one of them with `file`")
    if any(path.suffix in PICKLES for path in folder.iterdir()):
        raise SetupError(f"loras: {folder}: its weights are a pickle, which can run code; convert it to safetensors")
    raise SetupError(f"loras: {folder}: has no safetensors file")
