"""Writes docs/openapi/*.json from the code; `--check` fails when the committed files differ."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from broadcaster.openapi import document
from reelnet.settings import Listener
from runner.app import build
from runner.settings import RunnerSettings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "openapi"


def schemas() -> dict[str, dict[str, Any]]:
    """The OpenAPI documents by file name."""
    runner = build(RunnerSettings(model="synthetic/bars", backend="synthetic", tcp=Listener()))
    return {"broadcaster.json": document(), "runner.json": runner.openapi()}


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    drift = False
    for name, schema in schemas().items():
        path, text = FOLDER / name, json.dumps(schema, indent=1, sort_keys=True) + "\n"
        if "--check" in sys.argv[1:]:
            if not path.exists() or path.read_text("utf-8") != text:
                drift = True
                print(f"docs/openapi/{name}: differs from what the code says; run `make openapi`")
        else:
            path.write_text(text, "utf-8")
    return int(drift)


if __name__ == "__main__":
    sys.exit(main())
