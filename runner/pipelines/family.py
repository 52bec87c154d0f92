"""What every model family has in common: its noise, and the hooks that make a diffusers call tell its steps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from reelnet.errors import OutOfMemoryError
from runner.backend import Rendered, Reporter, RunnerJob, Served
from runner.models.numbers import finite_decoding
from runner.pipelines.latent_previews import Showing
from runner.pipelines.needs import Needs

StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""What diffusers calls at the end of each denoising step: (pipeline, step from 0, timestep, tensors) → tensors."""

_TORCH_SEEDS = 2**32
_SHORT = ("DefaultCPUAllocator: ", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""How other allocations of torch's say that they failed."""
_STATE_WORDS = slice(24, 24 + 624 * 8)
"""Where a CPU generator's saved state has its 624 words, 8 bytes each: behind seed, two counts and a position."""


class Family(Protocol):
    """One loaded diffusers pipeline and the reelnet pipelines that it serves."""

    @property
    def served(self) -> tuple[Served, ...]: ...

    @property
    def loras(self) -> Mapping[str, str]:
        """The LoRAs that jobs may use: id → sha256."""

    def needs(self) -> Needs:
        """What its jobs take of the device's memory; asked once, when the model is loaded."""

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """As Backend.run."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which of a job's outputs is being made: totals count the steps of all of them."""

    index: int
    outputs: int

    def denoising(self, report: Reporter, showing: Showing | None = None) -> StepCallback:
        """A step callback that reports `denoise`, and shows what there is where the job asks for it.

        The scheduler decides how many steps there are, not the request.
        """

        def ended(pipe: Any, step: int, _: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            steps = steps_of(pipe)
            report.step("denoise", self.index * steps + step + 1, self.outputs * steps)
            if showing is not None:
                showing.ended(report, self.index, step + 1, steps)
            return tensors

        return ended

    @contextlib.contextmanager
    def decoding(self, report: Reporter, pipe: Any, calls: int = 1) -> Iterator[None]:
        """Reports `decode` after each of an output's `calls` of the VAE's decoder, where a job can stop as well.

        A pipeline whose decoder is elsewhere reports it once, at its end. Raises NodeError for latents or pixels that
        are no numbers.
        """
        decoder = getattr(getattr(pipe, "vae", None), "decoder", None)
        if decoder is None:
            yield
            report.step("decode", self.index + 1, self.outputs)
            return
        with finite_decoding(pipe), self._called(report, "decode", decoder, calls):
            yield

    def conditioning(self, report: Reporter, encoder: Any, calls: int) -> contextlib.AbstractContextManager[None]:
        """Reports `condition` after each of an output's `calls` of the net that reads the input, as `decoding` does."""
        return self._called(report, "condition", encoder, calls)

    @contextlib.contextmanager
    def _called(self, report: Reporter, stage: str, net: Any, calls: int) -> Iterator[None]:
        done = 0

        def told(*_: Any) -> None:
            nonlocal done
            done = min(done + 1, calls)
            report.step(stage, self.index * calls + done, self.outputs * calls)

        handle = net.register_forward_hook(told)
        try:
            yield
        finally:
            handle.remove()


def steps_of(pipe: Any) -> int:
    """The steps of a call that is under way; classes with an older callback do not tell them."""
    told = getattr(pipe, "num_timesteps", None)
    return int(told) if told else len(pipe.scheduler.timesteps) // pipe.scheduler.order


def noise(seed: int) -> torch.Generator:
    """Noise that depends on the whole seed and nothing else: made on the CPU, equal on every device.

    A seed below 2³² draws what a plain `manual_seed` does. Torch's CPU generator reads no higher bits, so that a larger
    seed fills all of its state (a Mersenne Twister, MT19937) with the words that numpy's SeedSequence makes of it.
    """
    generator = torch.Generator("cpu").manual_seed(seed % _TORCH_SEEDS)
    if seed < _TORCH_SEEDS:
        return generator
    words = np.random.MT19937(np.random.SeedSequence(seed)).state["state"]["key"]
    state = generator.get_state().numpy().copy()
    state[_STATE_WORDS] = words.astype(np.uint64).view(np.uint8)
    return generator.set_state(torch.from_numpy(state))


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Tells torch's out-of-memory as ours."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError("the job did not fit into the device's free memory; ask for a smaller one") from None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised it because memory was short; only CUDA's allocator has a class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _SHORT)
