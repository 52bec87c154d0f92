"""Asks a broadcaster for a picture and watches it come: saves each preview, and then the result.

    python examples/watch.py "a red fox in the snow" --every 5 --to fox

It needs httpx alone. Previews are a wish: a node whose model cannot show them sends none.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Watch a picture come.")
    parser.add_argument("prompt")
    parser.add_argument("--url", default="http://127.0.0.1:9935", help="the broadcaster")
    parser.add_argument("--every", type=int, default=5, help="steps from one preview to the next")
    parser.add_argument("--to", type=Path, default=Path("picture"), help="beginning of the files' names")
    parser.add_argument("--steps", type=int, default=30)
    asked = parser.parse_args()
    job = {"prompt": asked.prompt, "num_inference_steps": asked.steps, "preview_steps": asked.every}
    headers = {"accept": "text/event-stream"}
    with (
        httpx.Client(base_url=asked.url, timeout=900) as http,
        http.stream("POST", "/text-to-image", json=job, headers=headers) as answer,
    ):
        if answer.is_error:
            raise SystemExit(answer.read().decode())
        for name, data in events(answer.iter_lines()):
            tell(name, data, asked.to)


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The server-sent events in an answer: name and data."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def tell(name: str, data: dict[str, Any], to: Path) -> None:
    """Saves what an event brings, and says so."""
    if name == "preview":
        file = Path(f"{to}-{data['index']}-step-{data['step']:03d}.jpg")
        file.write_bytes(base64.b64decode(data["data"]))
        print(f"step {data['step']} of {data['total']}: {file}")
    elif name == "result":
        for index, image in enumerate(data["images"]):
            file = Path(f"{to}-{index}{Path(image['url']).suffix}")
            file.write_bytes(httpx.get(image["url"]).raise_for_status().content)
            print(f"done: {file}")
    elif name == "error":
        raise SystemExit(data["error"]["message"])


if __name__ == "__main__":
    main()
