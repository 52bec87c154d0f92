"""The first configuration file of a node: what this machine has, with a comment on everything that may be changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.control_client import COMPONENT, NOUN
from orchestrator.devices import Device
from orchestrator.models_on_disk import FoundModel
from reelnet.operating.control_client import Instance

GIB = 2**30
PRICE = '{mpix_step: "0.0000045"}'


@dataclass(frozen=True, slots=True)
class Draft:
    """What a file is drafted from; `models` are ids with what lies there.

    The models' folder is always named: the node may run as a user, or a service, with another home.
    """

    file: Path
    name: str
    devices: tuple[Device, ...]
    models: Sequence[tuple[str, FoundModel]]
    models_home: Path
    synthetic: bool = False
    home: Path | None = None

    def command(self, words: str) -> str:
        """A command line for this file's node, to paste in a shell; the file has the node's name."""
        return Instance(COMPONENT, NOUN, config=self.file).command(words)


def draft_text(draft: Draft) -> str:
    """The file."""
    parts = [_head(draft), _engine(), _devices(draft.devices), _models(draft), _tail()]
    return "\n".join(parts)


def _head(draft: Draft) -> str:
    lines = [
        f"# A node. Check it with `{draft.command('doctor')}`, run it with `{draft.command('serve')}`.",
        "# Every key and its default: docs/configuration.md",
        "",
        f"name: {_text(draft.name)} # names the state folder",
    ]
    if draft.home:
        lines.append(f"home: {_text(str(draft.home))} # state of all components: keys, sockets, spool")
    lines += [
        f"models_home: {_text(str(draft.models_home))} # ids of models are folders below it",
        "",
        "grpc: {host: 127.0.0.1, port: 8935} # where broadcasters reach the node; loopback only, a tunnel leads here",
        "metrics: {host: 127.0.0.1, port: 7935} # /metrics, /livez, /readyz",
        "",
    ]
    return "\n".join(lines)


def _engine() -> str:
    return (
        "engine: auto # docker where it answers and `image` is set, else process: runners as children of the node\n"
        "# image: name@sha256:… # the runners' container image, by digest or id\n"
    )


def _devices(devices: Sequence[Device]) -> str:
    found = "; ".join(f"{device.name}: {_comment(device.title)}{_size(device.memory_bytes)}" for device in devices)
    names = "auto" if any(device.uuid for device in devices) else "cpu"
    return f"devices: [{names}] # found here: {found}\n"


def _models(draft: Draft) -> str:
    if draft.synthetic:
        return _synthetic()
    if not draft.models:
        return (
            f"# No model lies below {_comment(str(draft.models_home))} yet. A model is a folder in diffusers layout\n"
            "# with safetensors weights; its id is the path below that folder.\n"
            "models: []\n"
            "#  - model: stabilityai/stable-video-diffusion-img2vid-xt\n"
            "#    pipelines: {image-to-video: {price: " + PRICE + "}}\n"
        )
    head = (
        "# Found below the models' folder. Prices are plain dollars as text, by mpix_step (a million pixels, one step\n"
        "# and one frame), output_mpix, job, cold_load; without a price a pipeline is free.\n"
    )
    left_out = "".join(f"# {_comment(name)}: left out, {why}\n" for name, model in draft.models if (why := _why(model)))
    served = [_model(name, model) for name, model in draft.models if not _why(model)]
    return head + left_out + ("models:\n" + "\n".join(served) if served else "models: []\n")


def _why(found: FoundModel) -> str:
    """Why a model is left out; empty when it is not."""
    if not found.weight_bytes:
        return "it has no safetensors weights"
    if not found.pipelines:
        return f"no runner loads a {_comment(found.class_name) or 'model without a class'}; name it if yours does"
    return ""


def _model(model_id: str, found: FoundModel) -> str:
    kind = f"{_comment(found.class_name)}, {found.weight_bytes / GIB:.2f} GiB of weights"
    prices = ", ".join(f"{pipeline}: {{price: {PRICE}}}" for pipeline in found.pipelines)
    lines = [
        f"  - model: {_text(model_id)} # {kind}",
        f"    # pipelines: {{{prices}}} # absent: all that it has, free",
        "    replicas: 1 # runners, each with the model in memory",
        '    queue: 8 # jobs that may wait for it; one more gets "busy"',
        "    warm: true # false: loaded when a job asks for it",
        "",
    ]
    return "\n".join(lines)


def _synthetic() -> str:
    return (
        "# Colour bars instead of a model: everything but the weights is as with a real one.\n"
        "models:\n"
        "  - model: synthetic/bars\n"
        "    pipelines: {text-to-image: {}, image-to-video: {}}\n"
        "    backend: {synthetic: {unit_s: 0.01}} # seconds for a million pixels and one step\n"
    )


def _tail() -> str:
    return (
        "# Only these broadcasters are served (`broadcaster id` prints an id); absent: any that reaches the port.\n"
        "# broadcasters: []\n"
        "\n"
        "limits:\n"
        "  drain_s: 600 # what running jobs get when the node stops; keep systemd's TimeoutStopSec above it\n"
        "  stall_s: 60 # a job without progress for that long is hung; raise it where one step takes longer\n"
    )


def _size(count: int | None) -> str:
    return "" if count is None else f", {count / GIB:.0f} GiB"


def _text(text: str) -> str:
    """A string as YAML reads it, whatever it holds: JSON's is one."""
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    """What may stand behind a #: no line's end."""
    return "".join(c if c.isprintable() else " " for c in text)[:200]
