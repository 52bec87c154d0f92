"""Where a model's text encoders stop reading a job's prompts: what a tokenizer cuts is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from reelnet.prompts import PROMPTS
from reelnet.warnings import PROMPT_CUT, JobWarning
from runner.backend import Reporter, RunnerJob

QUOTED_CHARS = 40


@dataclass(frozen=True, slots=True)
class Reading:
    """One text as a tokenizer was asked to read it: at most `limit` tokens, of which it needs `needed`.

    `end`: where the text that fits ends, characters; None where the tokenizer does not tell.
    """

    text: str
    limit: int
    needed: int
    end: int | None

    @property
    def cut(self) -> bool:
        """Whether a part of the text was left out."""
        return self.needed > self.limit


@contextlib.contextmanager
def told_cuts(pipe: Any, job: RunnerJob, report: Reporter) -> Iterator[None]:
    """While it lasts, the pipeline reads the job's prompts; at its end, a warning for each that was cut."""
    readings: list[Reading] = []
    with contextlib.ExitStack() as watching:
        for tokenizer in _tokenizers(pipe):
            watching.enter_context(_watched(tokenizer, readings))
        yield
    for warning in cut_warnings(readings, {name: str(getattr(job.params, name, "")) for name in PROMPTS}):
        report.warn(warning)


def cut_warnings(readings: list[Reading], prompts: dict[str, str]) -> Iterator[JobWarning]:
    """A warning for each prompt of which a tokenizer left a part out."""
    negative = _plain(prompts.get("negative_prompt", ""))
    for name in PROMPTS:
        mine = [
            each for each in readings if (name == "negative_prompt") == bool(negative and _plain(each.text) == negative)
        ]
        if cut := [each for each in mine if each.cut]:
            yield JobWarning(PROMPT_CUT, _message(cut, [each for each in mine if not each.cut]), name)


def _message(cut: list[Reading], whole: list[Reading]) -> str:
    """What is said of one prompt. The encoder that reads most decides what the model does not see at all."""
    widest = max(cut, key=lambda each: each.limit)
    who = "One of the model's text encoders" if whole else "The model's text encoder"
    place = f", up to {_last_words(widest.text[: widest.end])!r}" if widest.end else ""
    rest = "; another one reads it all" if whole else ""
    return f"{who} reads {widest.limit} of the prompt's {widest.needed} tokens{place}{rest}."


def _last_words(text: str) -> str:
    return text if len(text) <= QUOTED_CHARS else "…" + text[-QUOTED_CHARS:]


def _plain(text: str) -> str:
    return " ".join(text.split())


def _tokenizers(pipe: Any) -> list[Any]:
    """The pipeline's tokenizers, each once."""
    found = {id(part): part for part in pipe.components.values() if isinstance(part, PreTrainedTokenizerBase)}
    return list(found.values())


@contextlib.contextmanager
def _watched(tokenizer: Any, readings: list[Reading]) -> Iterator[None]:
    """While it lasts, each text that the tokenizer cuts to a length is noted. A call is looked up on the class."""
    own = type(tokenizer)

    def noting(self: Any, text: Any = None, *more: Any, **named: Any) -> Any:
        if named.get("truncation"):
            limit = int(named.get("max_length") or self.model_max_length)
            readings.extend(_reading(self, own, each, limit) for each in _texts(text))
        return own.__call__(self, text, *more, **named)

    tokenizer.__class__ = type(own.__name__, (own,), {"__call__": noting})
    try:
        yield
    finally:
        tokenizer.__class__ = own


def _texts(text: Any) -> list[str]:
    return [each for each in (text if isinstance(text, list | tuple) else [text]) if isinstance(each, str)]


def _reading(tokenizer: Any, own: Any, text: str, limit: int) -> Reading:
    needed = len(own.__call__(tokenizer, text, verbose=False).input_ids)
    if needed <= limit or not tokenizer.is_fast:
        return Reading(text, limit, needed, None)
    kept = own.__call__(tokenizer, text, truncation=True, max_length=limit, return_offsets_mapping=True)
    return Reading(text, limit, needed, max(end for _, end in kept.offset_mapping))
