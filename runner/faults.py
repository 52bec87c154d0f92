"""Faults, warnings and unsafe pictures on request, for tests and drills: only the synthetic backend knows them."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

from reelnet.errors import ConfigError


class FaultKind(enum.StrEnum):
    """What goes wrong."""

    SLOW = "slow"
    FAIL_USER = "fail user"
    FAIL_NODE = "fail node"
    OOM = "oom"
    HANG = "hang"
    DIE = "die"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; `seconds` belongs to SLOW, `once` limits it to a job's first attempt."""

    kind: FaultKind
    seconds: float = 0.0
    once: bool = False

    def applies(self, attempt: int) -> bool:
        """Whether this attempt has the fault."""
        return attempt <= 1 or not self.once


@dataclass(frozen=True, slots=True)
class LateFault:
    """A fault that begins after so many finished jobs."""

    after_jobs: int
    fault: Fault


_GRAMMAR = re.compile(
    r"(?:slow (?P<seconds>\d+(?:\.\d+)?)|(?P<kind>fail user|fail node|oom|hang|die))(?P<once> once)?\b"
)
_KNOWN = "slow SECONDS, fail user, fail node, oom, hang, die; each with 'once' behind it, if wanted"
_MODEL_PREFIX = "synthetic/"
_WARNED = re.compile(r"!warn\b")
_UNSAFE = re.compile(r"!nsfw\b")


def parse(text: str) -> Fault | None:
    """The fault that `text` begins with (`slow 3`, `fail node once`), or None."""
    found = _GRAMMAR.match(text)
    if not found:
        return None
    once = bool(found["once"])
    if found["seconds"]:
        return Fault(FaultKind.SLOW, float(found["seconds"]), once)
    return Fault(FaultKind(found["kind"]), once=once)


def configured(kind: str) -> Fault:
    """The fault that a settings file names. Raises ConfigError for an unknown one."""
    fault = parse(kind.replace("-", " "))
    if fault is None:
        raise ConfigError(f"synthetic.faults: unknown kind {kind!r}; known: {_KNOWN}")
    return fault


def choose(prompt: str, model_id: str, late: Iterable[LateFault], finished: int, attempt: int) -> Fault | None:
    """The fault of a job: the prompt's word (`!fail node`), else the model id's, else the configured one."""
    asked = _in_prompt(prompt) or _in_model_id(model_id) or _due(late, finished)
    return asked if asked and asked.applies(attempt) else None


def unsafe(prompt: str, model_id: str) -> bool:
    """Whether a job's outputs are to be found unsafe: by the prompt's word (`!nsfw`), or the model `synthetic/nsfw`."""
    return bool(_UNSAFE.search(prompt)) or model_id == f"{_MODEL_PREFIX}nsfw"


def warned(prompt: str) -> bool:
    """Whether the answer of a job is to have a warning: by the prompt's word (`!warn`)."""
    return bool(_WARNED.search(prompt))


def _in_prompt(prompt: str) -> Fault | None:
    words = (prompt[found.end() :] for found in re.finditer("!", prompt))
    return next((fault for word in words if (fault := parse(word))), None)


def _in_model_id(model_id: str) -> Fault | None:
    return parse(model_id.removeprefix(_MODEL_PREFIX).replace("-", " ")) if model_id.startswith(_MODEL_PREFIX) else None


def _due(late: Iterable[LateFault], finished: int) -> Fault | None:
    due = [row for row in late if finished >= row.after_jobs]
    return max(due, key=lambda row: row.after_jobs).fault if due else None
