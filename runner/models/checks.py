"""What is looked at before a model is stored: licence, space, and whether its files are whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from reelnet.errors import ConfigError
from reelnet.jobs import Licence
from runner.backend import SetupError
from runner.models.digest import INDEX, WEIGHTS, check_whole, survey
from runner.models.layout import is_checkpoint, tensor_names
from runner.models.licences import YES
from runner.models.lora_kinds import check_kind, is_adapter

GIB = 2**30


def free_bytes(folder: Path) -> int:
    """Bytes that may be written below `folder`."""
    return shutil.disk_usage(folder).free


def check_licence(model: str, licence: Licence, accepted: bool) -> None:
    """Raises ConfigError unless the licence is free for every use, or was accepted."""
    if licence.commercial == YES or accepted:
        return
    meaning = {
        "no": "forbids commercial use",
        "conditional": "has conditions",
        "unknown": "is not known to this program",
    }[licence.commercial]
    raise ConfigError(f"{model}: its licence {licence.id} {meaning}; read it, then say --accept-licence")


def check_model(folder: Path) -> None:
    """Raises SetupError for weights that are not whole, and for a model that a runner would refuse."""
    if (folder / INDEX).exists():
        survey(folder)
        return
    for path in folder.rglob("*"):
        if path.suffix in WEIGHTS:
            check_whole(path)
            _check_lone(path)


def _check_lone(path: Path) -> None:
    """Raises SetupError for weights without an index that nothing serves: they are an upscaler's, or a LoRA."""
    if is_adapter(tensor_names(path)):
        check_kind(path)
    elif is_checkpoint(path):
        raise SetupError(
            f"{path.name}: is a diffusion model's checkpoint, and what its nets are stands in no file beside it; store "
            "a folder with it, the model_index.json of its base model and the folders of configurations and tokenizers"
        )
