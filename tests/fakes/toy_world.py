"""A backend that draws the toy world truly, or one scene wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from runner.backend import ModelInfo, Rendered, Reporter, RunnerJob
from runner.self_test import QUESTIONS, Question
from runner.toyworld.scenes import Scene, draw


class Painter:
    """Answers the questions of the self-test truly; the last one with `instead`, where it is given."""

    def __init__(self, instead: Scene | None = None) -> None:
        self._scenes = {question.prompt: question.shows for question in QUESTIONS}
        if instead:
            self._scenes[QUESTIONS[-1].prompt] = instead

    def load(self) -> ModelInfo:
        return ModelInfo("toy", "d" * 64, "float32", ())

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        picture = draw(self._scenes[job.params.prompt], job.params.width)  # type: ignore[attr-defined]
        yield Rendered(0, job.seed, (picture[None] * 255).round().astype(np.uint8))

    def recover(self) -> None: ...

    def memory_bytes(self) -> int:
        return 7

    def close(self) -> None: ...


def changed(question: Question, name: str) -> Scene:
    """What the question is known to show, with another one of a factor."""
    others = {"shape": "ring", "colour": "orange", "ground": "red", "place": "top", "size": "small"}
    return replace(question.shows, **{name: others[name]})
