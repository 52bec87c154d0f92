"""A course of training that can stop after any step and go on later as if it had not."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

KEEP_EVERY = 200
TELL_EVERY = 100
Loss = Callable[[np.random.Generator, int], tuple[torch.Tensor, Iterable[float]]]
"""Gives, for a step, the loss and figures to tell the mean of."""
_WARM = 60
_LAST = 0.02


def word_optimiser(drawing: nn.Module, text: nn.Module, rate: float) -> torch.optim.AdamW:
    """For a net that draws and its text encoder: the words are learned half as fast as the pictures."""
    groups = [{"params": list(drawing.parameters()), "lr": rate}, {"params": list(text.parameters()), "lr": rate / 2}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-4)


@dataclass
class Course:
    """What is trained, by which optimiser, for how many steps, and where its state is kept."""

    name: str
    net: nn.Module
    optimiser: torch.optim.Optimizer
    steps: int
    seed: int
    folder: Path
    smooth: nn.Module | None = None
    """A second one of `net`, which gets the running mean of its weights."""
    stop: int | None = None
    """A step after which it ends before its time."""
    cooling: int | None = None
    """With `stop`: a step from which the rate falls in a straight line to nothing at `stop`."""
    done: int = 0
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.random = np.random.default_rng(self.seed)
        self._peaks = [group["lr"] for group in self.optimiser.param_groups]
        self._recent: list[list[float]] = []
        self._go_on()

    def run(self, loss_of: Loss) -> None:
        """Takes the steps that are left."""
        began, cpu = time.monotonic(), time.process_time()
        while self.done < (self.stop or self.steps):
            self._set_rate()
            loss, figures = loss_of(self.random, self.done)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimiser.step()
            self._average()
            self.done += 1
            self._recent.append([loss.item(), *figures])
            if self.done % TELL_EVERY == 0:
                means = " ".join(f"{mean:.4f}" for mean in np.mean(self._recent, axis=0))
                minutes = (time.monotonic() - began) / 60, (time.process_time() - cpu) / 60
                print(f"{self.name} {self.done}: {means}; {minutes[0]:.1f} min, {minutes[1]:.1f} CPU-min", flush=True)
                self._recent.clear()
            if self.done % KEEP_EVERY == 0 or self.done in (self.stop, self.steps):
                self._keep()

    def _set_rate(self) -> None:
        part = self._part(self.done)
        for group, peak in zip(self.optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * part

    def _part(self, step: int) -> float:
        """Of its peak: up to it in the first steps, then down along half a cosine; when it cools, in a line."""
        if self.cooling and self.stop and step > self.cooling:
            return self._part(self.cooling) * (self.stop - step) / (self.stop - self.cooling)
        if step < _WARM:
            return (step + 1) / _WARM
        way = (step - _WARM) / max(self.steps - _WARM, 1)
        return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * way))

    @torch.no_grad()
    def _average(self) -> None:
        if self.smooth is not None:
            weight = 1 - min(0.998, (self.done + 1) / (self.done + 20))
            torch._foreach_lerp_(list(self.smooth.parameters()), list(self.net.parameters()), weight)

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.state.pt"

    def _keep(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".draft")
        state = {
            "net": self.net.state_dict(),
            "smooth": self.smooth.state_dict() if self.smooth is not None else None,
            "optimiser": self.optimiser.state_dict(),
            "done": self.done,
            "numpy": self.random.bit_generator.state,
            "torch": torch.get_rng_state(),
        }
        torch.save(state, draft)
        draft.replace(self._file)

    def _go_on(self) -> None:
        if not self._file.exists():
            return
        state = torch.load(self._file, weights_only=False)
        self.net.load_state_dict(state["net"])
        if self.smooth is not None:
            self.smooth.load_state_dict(state["smooth"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.done = state["done"]
        self.random.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])
        print(f"{self.name}: goes on after step {self.done}", flush=True)
