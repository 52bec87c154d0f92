"""Warnings: the table of codes, what of a peer's is kept, and the words that read as plain text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reelnet.parameters import PromptedVideo, TextToImage
from reelnet.pipelines import FAMILIES, families_of
from reelnet.prompts import bracket_warnings
from reelnet.warnings import CODES, MAX_WARNING_CHARS, MAX_WARNINGS, PLAIN_BRACKETS, JobWarning, known_warnings

API = Path(__file__).resolve().parents[3] / "docs" / "api.md"


def test_the_page_has_each_code_its_meaning_and_its_pipelines() -> None:
    """docs/api.md and the rows of the families say the same."""
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", API.read_text("utf-8"), re.MULTILINE)
    assert [row for row in rows if row[0] in CODES] == [(code, text, _where(code)) for code, text in CODES.items()]


def _where(code: str) -> str:
    told = []
    for name in sorted({pipeline.name for pipeline in FAMILIES.values()}):
        having = [each.family for each in families_of(name) if code in each.warns]
        if having:
            told.append(name if len(having) == len(families_of(name)) else f"{name} ({', '.join(having)})")
    return ", ".join(told)


def test_a_family_declares_codes_that_exist() -> None:
    """No row names a code that the table does not have."""
    assert set().union(*(pipeline.warns for pipeline in FAMILIES.values())) <= set(CODES)


def test_a_peers_warnings_are_known_short_and_few() -> None:
    """An undeclared code is dropped, a strange parameter left empty, a long text cut, a repeated one told once."""
    found = [
        JobWarning("prompt_cut", "cut\x1b[2J" + "a" * 1000, "prompt"),
        JobWarning("your_money", "send it", "prompt"),
        JobWarning("prompt_cut", "cut", "<script>"),
        JobWarning("prompt_cut", "cut", "<script>"),
    ]
    first, second = known_warnings(found, {"prompt_cut"}, {"prompt"})
    assert len(first.message) == MAX_WARNING_CHARS
    assert first.message.isprintable()
    assert second == JobWarning("prompt_cut", "cut", "")
    many = [JobWarning("prompt_cut", str(n)) for n in range(99)]
    assert len(known_warnings(many, {"prompt_cut"}, ())) == MAX_WARNINGS


@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("a (fox:1.3) on grass", "'(fox:1.3)' weighs no words"),
        ("a ((red fox))", "'(red fox)' weighs no words"),
        ("a [fox] at night", "'[fox]' weighs no words"),
        ("a [fox:cat:0.5]", "'[fox:cat:0.5]' weighs no words"),
        ("a fox <lora:ink:0.8>", "'<lora:ink:0.8>' is read as plain text: name LoRAs in the parameter loras"),
    ],
)
def test_weights_of_other_programs_are_told(prompt: str, shown: str) -> None:
    """Each names the words, and the parameter that has them."""
    (warning,) = bracket_warnings(TextToImage(prompt=prompt))
    assert (warning.code, warning.parameter) == (PLAIN_BRACKETS, "prompt")
    assert shown in warning.message


@pytest.mark.parametrize("prompt", ["a fox", r"a \(fox\)", "smile :) and (", "3 < 4 > 2", "()", "[ ]"])
def test_plain_words_are_no_weights(prompt: str) -> None:
    """Escaped, open and empty brackets weigh nothing in any program."""
    assert list(bracket_warnings(TextToImage(prompt=prompt))) == []


def test_both_prompts_are_read() -> None:
    """Also of a clip, and of a prompt that is one long bracket."""
    found = bracket_warnings(PromptedVideo(prompt="(" + "a" * 4000 + ")", negative_prompt="[bad]"))
    assert [warning.parameter for warning in found] == ["prompt", "negative_prompt"]
