"""A trained model's folder, as it is committed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from runner.models.tiny import write_card

NOTE = "trained by scripts/toyworld on pictures that the program drew itself: draws the toy world alone"


def write(pipe: Any, model: Path, facts: Mapping[str, object]) -> None:
    """The pipeline in half precision, without the paths that it was put together from, and its card."""
    pipe.to(torch.float16).save_pretrained(model, safe_serialization=True)
    for path in model.rglob("*config.json"):
        settings = json.loads(path.read_text("utf-8"))
        settings.pop("_name_or_path", None)
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")
    for path in model.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
    write_card(model, {"note": NOTE, **facts})
