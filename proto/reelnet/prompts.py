"""Words of a prompt that other programs read as commands, and that a model here reads as plain text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from reelnet.parameters import Params
from reelnet.warnings import PLAIN_BRACKETS, JobWarning

PROMPTS = ("prompt", "negative_prompt")
SHOWN_CHARS = 40
_WEIGHTED = re.compile(r"(?<!\\)(?:\([^()]+(?<!\\)\)|\[[^\[\]]+(?<!\\)\])")
"""Words in brackets that no backslash escapes: in other programs they count for more, or for less."""
_LORA = re.compile(r"<(?:lora|lyco|hypernet):[^<>]+>", re.IGNORECASE)


def bracket_warnings(params: Params) -> Iterator[JobWarning]:
    """A warning for each prompt of a job that weighs words, or names a LoRA, as other programs have it."""
    for name in PROMPTS:
        text = getattr(params, name, "")
        if found := _LORA.search(text):
            shown = _shown(found[0])
            yield JobWarning(
                PLAIN_BRACKETS, f"{shown!r} is read as plain text: name LoRAs in the parameter loras.", name
            )
        if found := next((each for each in _WEIGHTED.finditer(text) if re.search(r"\w", each[0])), None):
            shown = _shown(found[0])
            yield JobWarning(PLAIN_BRACKETS, f"{shown!r} weighs no words: brackets are read as plain text here.", name)


def _shown(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
