"""How an output came about, as one JSON object that goes into its file when the job asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version

from runner.backend import RunnerJob

NOT_MADE_WITH = {"preview_steps"}
"""Parameters that change nothing in an output: its bytes are the same with and without."""
MAX_NOTE_BYTES = 60_000
"""Less than a JPEG's segment holds. Texts are cut above it, which takes prompts of thousands of rare characters."""


def note_of(job: RunnerJob, seed: int) -> str:
    """What the file of the job's output with that seed says of itself; empty where the job does not ask.

    ASCII without control characters, whatever stands in the prompt: no program that shows it can be told anything by
    it. It names neither job nor node, and no time.
    """
    if job.model is None or not getattr(job.params, "metadata", False):
        return ""
    params = {**job.params.model_dump(mode="json", exclude=NOT_MADE_WITH), "seed": seed}
    said = {
        "software": f"reelnet {version('reelnet')}",
        "pipeline": job.pipeline,
        "schema": job.kind.schema,
        "model": job.model.model,
        "model_digest": job.model.digest,
        "loras": {name: job.model.loras[name] for name in params.get("loras", {}) if name in job.model.loras},
        "params": params,
    }
    return _bounded(said, params)


def _bounded(said: Mapping[str, object], params: Mapping[str, object]) -> str:
    text, chars = _ascii(said), MAX_NOTE_BYTES
    while len(text) > MAX_NOTE_BYTES and chars:
        chars //= 2
        cut = {name: value[:chars] if isinstance(value, str) else value for name, value in params.items()}
        text = _ascii({**said, "params": cut, "cut": True})
    return text


def _ascii(said: Mapping[str, object]) -> str:
    return json.dumps(said, ensure_ascii=True, separators=(",", ":")).replace("\x7f", "\\u007f")
