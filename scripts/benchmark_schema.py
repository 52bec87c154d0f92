"""Writes docs/benchmark-report.schema.json from the code; `--check` fails when the committed file differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmark.document import schema

FILE = Path(__file__).resolve().parent.parent / "docs" / "benchmark-report.schema.json"


def main() -> int:
    text = json.dumps(schema(), indent=1, sort_keys=True) + "\n"
    if "--check" not in sys.argv[1:]:
        FILE.write_text(text, "utf-8")
        return 0
    if FILE.exists() and FILE.read_text("utf-8") == text:
        return 0
    print(
        "docs/benchmark-report.schema.json: differs from the code; run `.venv/bin/python scripts/benchmark_schema.py`"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
