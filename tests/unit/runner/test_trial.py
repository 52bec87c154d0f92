"""The small pictures at set-up are decoded as a job's are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")

from runner.pipelines.arguments import Arguments  # noqa: E402
from runner.pipelines.trial import tried  # noqa: E402

pytestmark = pytest.mark.diffusers
SIDE = 128


class HalfVae:
    """Gives no numbers in float16."""

    dtype = torch.float16

    def to(self, dtype: Any) -> None:
        self.dtype = dtype

    def decode(self, latents: Any) -> Any:
        broken = float("nan") if latents.dtype is torch.float16 else 0.0
        return SimpleNamespace(sample=latents + broken)


class Pipe:
    """Draws noise of its generator, lighter or darker by the words."""

    def __init__(self) -> None:
        self.vae = HalfVae()

    def __call__(
        self, prompt: str, num_inference_steps: int, generator: Any, callback_on_step_end: Any, height: int, width: int,
        output_type: str,
    ) -> Any:  # fmt: skip
        for step in range(num_inference_steps):
            callback_on_step_end(self, step, 0, {})
        latents = torch.rand(1, height, width, 3, generator=generator) / 2 + len(prompt) / 100
        return SimpleNamespace(images=self.vae.decode(latents.half()).sample.float().numpy())


def test_half_precision_that_overflows_is_no_reason_to_refuse_a_class() -> None:
    """Its jobs are decoded again in float32, and so is the trial."""
    pipe = Pipe()
    assert tried(pipe, "text-to-image", Arguments.of(pipe)).owner == "Pipe"
