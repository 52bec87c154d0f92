"""What a denoiser takes the finished picture to be, at any of its steps.

Latents on their way are half noise for most of a job; the estimate of the picture in them is what a scheduler itself
computes at each step. It follows from what the scheduler is given: noisy latents x = a·picture + b·noise, and the
net's word on picture or noise. a and b are asked of the scheduler, by having it add noise to numbers that are known.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

Pick = Callable[[torch.Tensor], "torch.Tensor | None"]
"""Takes what is shown out of a job's latents; None where it does not know them."""


class Denoising:
    """The step of a scheduler that was made last."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._seen: tuple[torch.Tensor, Any, torch.Tensor] | None = None

    def saw(self, output: torch.Tensor, timestep: Any, latents: torch.Tensor) -> None:
        """What the scheduler was given: the net's output, and the latents that it stands for."""
        self._seen = output, timestep, latents

    def picture(self, pick: Pick) -> torch.Tensor | None:
        """The estimate of the finished latents, float32, of what `pick` takes; None where that is not known.

        Nothing of it waits for the device, or changes what the scheduler does next.
        """
        seen, self._seen = self._seen, None
        if seen is None or seen[0].shape != seen[2].shape:
            return None
        output, latents = pick(seen[0]), pick(seen[2])
        if output is None or latents is None:
            return None
        a, b = _levels(self._scheduler, seen[1], latents.device)
        return _estimate(_prediction(self._scheduler), output.float(), latents.float(), a, b)


@contextlib.contextmanager
def watched(scheduler: Any) -> Iterator[Denoising]:
    """While it lasts, what the scheduler is given at its steps is seen; what it answers is its own."""
    denoising, step = Denoising(scheduler), scheduler.step

    @functools.wraps(step)  # a pipeline reads the signature
    def seen(model_output: Any, timestep: Any, sample: Any, *more: Any, **named: Any) -> Any:
        denoising.saw(model_output, timestep, sample)
        return step(model_output, timestep, sample, *more, **named)

    scheduler.step = seen
    try:
        yield denoising
    finally:
        del scheduler.step


def _prediction(scheduler: Any) -> str:
    """What the net says: noise, a picture, a velocity between them, or a flow from one to the other."""
    return "flow_prediction" if hasattr(scheduler, "scale_noise") else str(scheduler.config.get("prediction_type"))


def _levels(scheduler: Any, timestep: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The shares of picture and noise in the latents that a scheduler was given at its last step."""
    probe = copy.copy(scheduler)  # it moves its tables to where noise is added
    index = getattr(scheduler, "step_index", None)
    if index is not None:  # or the place of the timestep is searched, and a GPU is waited for
        probe._begin_index, probe._step_index = 0, index - 1
    picture, noise = torch.eye(2, device=device)
    times = torch.as_tensor(timestep, device=device).flatten()[:1].expand(2)
    if hasattr(probe, "scale_noise"):
        mixed = probe.scale_noise(picture, times, noise)
    else:
        mixed = probe.add_noise(picture, noise, times)
    return mixed[0], mixed[1]


def _estimate(
    prediction: str, output: torch.Tensor, latents: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor | None:
    """The picture p in latents x = a·p + b·n.

    Epsilon is n; v = (a·n − b·p) / √(a² + b²) (Salimans and Ho, 2022); a flow is n − p, with a = 1 − b.
    """
    match prediction:
        case "epsilon":
            return (latents - b * output) / a
        case "v_prediction":
            power = a * a + b * b
            return latents * (a / power) - output * (b / power.sqrt())
        case "flow_prediction":
            return latents - b * output
        case "sample" | "original_sample":
            return output
    return None
