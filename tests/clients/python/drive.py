"""Runs calls of the published Python client: one JSON object a line in, one a line out.

In: `operation`, `params`, `url`, `key`, and `picture`, a path, where the operation takes one. Out: `statuses` of every
HTTP answer (a repeat by the client would show), the JSON that was `sent`, and either `images` or `error`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
from livepeer_ai import Livepeer
from livepeer_ai.models import errors

KINDS = {getattr(errors, name): name for name in ("HTTPError", "HTTPValidationError", "SDKError")}


def main() -> None:
    """Until the input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


def answer(call: dict[str, Any]) -> dict[str, Any]:
    """What the client returned or raised."""
    statuses: list[int] = []
    sent: list[Any] = []
    with httpx.Client(
        event_hooks={
            "request": [lambda request: sent.append(json_body(request))],
            "response": [lambda response: statuses.append(response.status_code)],
        }
    ) as http:
        client = Livepeer(http_bearer=call["key"], server_url=call["url"], client=http)
        try:
            outcome: dict[str, Any] = {"images": run(client, call)}
        except Exception as error:
            outcome = {"error": described(error)}
    return {"statuses": statuses, "sent": sent[0] if sent else None, **outcome}


def run(client: Livepeer, call: dict[str, Any]) -> list[dict[str, Any]]:
    """The result's images, as the client has parsed them."""
    request = dict(call["params"])
    if picture := call.get("picture"):
        request["image"] = {"file_name": Path(picture).name, "content": Path(picture).read_bytes()}
    response = getattr(client.generate, call["operation"])(request=request)
    result = response.video_response if call["operation"] == "image_to_video" else response.image_response
    return [image.model_dump() for image in result.images]


def described(error: Exception) -> dict[str, Any]:
    """The error's exact class, its text, and what a program finds in it."""
    data = getattr(error, "data", None)
    return {
        "class": KINDS.get(type(error), f"none of the client's: {type(error).__qualname__}"),
        "text": str(error),
        "data": data.model_dump() if data else None,
        "status": getattr(error, "status_code", None),
        "body": getattr(error, "body", None),
    }


def json_body(request: httpx.Request) -> Any:
    """What a request says as JSON; None for a form."""
    return json.loads(request.content) if request.headers.get("content-type") == "application/json" else None


if __name__ == "__main__":
    main()
