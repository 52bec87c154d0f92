"""Where a text encoder stops reading, and what the answer says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra: diffusers")
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from reelnet.pipelines import PIPELINES
from reelnet.warnings import JobWarning
from runner.backend import RunnerJob, Sketch
from runner.pipelines.prompt_windows import Reading, cut_warnings, told_cuts

pytestmark = pytest.mark.diffusers


class Listening:
    """A reporter that keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[JobWarning] = []

    def step(self, stage: str, step: int, total: int) -> None:
        """Nothing."""

    def sketch(self, sketch: Sketch) -> None:
        """Nothing."""

    def warn(self, warning: JobWarning) -> None:
        self.warnings.append(warning)


def tokenizer(limit: int) -> Any:
    """One token a word, and one before and after."""
    words = {"[start]": 0, "[end]": 1, "[any]": 2}
    made = Tokenizer(models.WordLevel(words, unk_token="[any]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[start] $A [end]", special_tokens=[("[start]", 0), ("[end]", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=limit, unk_token="[any]", pad_token="[end]")


def job(prompt: str, negative: str = "") -> RunnerJob:
    """A job with these prompts."""
    params = PIPELINES["text-to-image"].parse({"prompt": prompt, "negative_prompt": negative, "seed": 1})
    return RunnerJob("j", 1, "text-to-image", params)


def told(job: RunnerJob, *tokenizers: Any) -> list[tuple[str, str]]:
    """Parameter and message of each warning, where a pipeline reads the prompts as diffusers does."""
    report = Listening()
    pipe = SimpleNamespace(components={str(n): each for n, each in enumerate(tokenizers)})
    with told_cuts(pipe, job, report):
        for each in tokenizers:
            for text in (job.params.prompt, job.params.negative_prompt):  # type: ignore[attr-defined]
                each([text], truncation=True, max_length=each.model_max_length, padding="max_length")
                each([text], padding="longest")
    assert all(type(each) is PreTrainedTokenizerFast for each in tokenizers)
    return [(warning.parameter, warning.message) for warning in report.warnings]


def test_a_prompt_that_fits_is_not_told() -> None:
    """Up to the last token of the window."""
    assert told(job("a red fox on snow", "bad"), tokenizer(7)) == []


def test_a_prompt_is_cut_after_words_that_are_quoted() -> None:
    """The message says how much was read, and up to where."""
    ((name, message),) = told(job("a red fox on white snow", "bad"), tokenizer(7))
    assert name == "prompt"
    assert message == "The model's text encoder reads 7 of the prompt's 8 tokens, up to 'a red fox on white'."


def test_each_prompt_is_told_of() -> None:
    """Two warnings, each with its own words; long ones are quoted from their end."""
    found = dict(told(job("a " * 30, "very " * 30), tokenizer(20)))
    assert set(found) == {"prompt", "negative_prompt"}
    assert "very very" in found["negative_prompt"]
    assert "…" in found["negative_prompt"]


def test_an_encoder_that_reads_less_than_another_is_told() -> None:
    """A model with a narrow and a wide encoder sees all of the prompt by the wide one alone."""
    ((_, message),) = told(job("a red fox on white snow"), tokenizer(5), tokenizer(50))
    assert message.startswith("One of the model's text encoders reads 5 of the prompt's 8 tokens, up to 'a red fox';")
    assert message.endswith("; another one reads it all.")


def test_equal_prompts_are_told_as_one() -> None:
    """Nobody can tell them apart."""
    readings = [Reading("a b c", 4, 5, 3)]
    assert [each.parameter for each in cut_warnings(readings, {"prompt": "a b c", "negative_prompt": "a b c"})]


def test_a_tokenizer_without_places_quotes_nothing() -> None:
    """It says how much was read."""
    (warning,) = cut_warnings([Reading("a b c", 4, 5, None)], {"prompt": "a b c"})
    assert warning.message == "The model's text encoder reads 4 of the prompt's 5 tokens."
