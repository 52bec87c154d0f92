"""The backend of a runner that proves itself: it draws pictures whose contents are known, and looks at them.

It serves the toy world's picture model, whose weights come with this package, through the same code as any model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reelnet.pipelines import pipeline_named
from runner.backend import Backend, Deaf, ModelInfo, Rendered, Reporter, RunnerJob, SetupError
from runner.diffusion import DiffusersBackend
from runner.settings import RunnerSettings
from runner.toyworld import trained
from runner.toyworld.scenes import FACTORS, SIDE, Pixels, Scene
from runner.toyworld.sight import Seen, look

PIPELINE = "text-to-image"
PARAMS = {"width": SIDE, "height": SIDE, "num_inference_steps": 12, "guidance_scale": 2.5}
_COLOUR_ERROR = 40.0
"""Of 255: colours that are farther from the palette's are wrong, even where no other colour is nearer."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and a seed, and the scene that they are known to give."""

    prompt: str
    seed: int
    shows: Scene


@dataclass(frozen=True, slots=True)
class Finding:
    """What a question gave; `wrong` is empty where all is as it should be."""

    question: Question
    seen: Seen
    wrong: str


QUESTIONS = (
    Question("a small red circle on the left, blue background", 1, Scene("circle", "red", "blue", "left", "small")),
    Question("a big white star in the centre, black background", 2, Scene("star", "white", "black")),
    Question("a big yellow square on the left, purple background", 3, Scene("square", "yellow", "purple", "left")),
    Question(
        "a big green triangle at the bottom on a white background", 4, Scene("triangle", "green", "white", "bottom")
    ),
)


class SelfTest:
    """A Backend that is ready only when every question is answered right. `inner` replaces what draws."""

    def __init__(self, settings: RunnerSettings, inner: Backend | None = None) -> None:
        """`settings`: their model is not read."""
        folder = str(trained.folder_of(trained.PICTURE))
        self._inner = inner or DiffusersBackend(settings.model_copy(update={"model": folder}))

    def load(self) -> ModelInfo:
        """Loads the model and asks the questions. Raises SetupError, which says what was drawn instead."""
        info = self.open()
        for finding in self.ask():
            if finding.wrong:
                raise SetupError(
                    f"self-test: {finding.question.prompt!r} came out wrong on {info.device} ({finding.wrong}); "
                    "the device, its driver or torch computes wrong; mend that, or take it out of the node's `devices`"
                )
        return info

    def open(self) -> ModelInfo:
        """Loads the model and asks nothing. Raises SetupError."""
        return self._inner.load()

    def ask(self) -> Iterator[Finding]:
        """Each question, once the model is loaded. Raises what drawing raises."""
        for question in QUESTIONS:
            seen = look(self._draw(question))
            yield Finding(question, seen, difference(question.shows, seen))

    def _draw(self, question: Question) -> Pixels:
        params = pipeline_named(PIPELINE).parse({**PARAMS, "prompt": question.prompt, "seed": question.seed})
        (rendered,) = self._inner.run(RunnerJob("self-test", 1, PIPELINE, params), Deaf())
        return np.asarray(rendered.frames[0], np.float32) / 255

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """As Backend.run."""
        return self._inner.run(job, report)

    def recover(self) -> None:
        """As Backend.recover."""
        self._inner.recover()

    def memory_bytes(self) -> int:
        """As Backend.memory_bytes."""
        return self._inner.memory_bytes()

    def close(self) -> None:
        """As Backend.close."""
        self._inner.close()


def difference(asked: Scene, seen: Seen) -> str:
    """What is not as it was asked, in words; empty for nothing. The size is judged only where a shape is seen."""
    wrong = [
        f"{name} {getattr(seen, name) or 'none'} instead of {getattr(asked, name)}"
        for name in FACTORS
        if getattr(seen, name) != getattr(asked, name)
    ]
    if not wrong and seen.colour_error > _COLOUR_ERROR:
        wrong = [f"a colour is off by {seen.colour_error:.0f} of 255"]
    return ", ".join(wrong)
