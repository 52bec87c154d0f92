"""Where a model's nets lie and how they are laid out: offload, channels-last, compilation."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch

from runner.backend import SetupError
from runner.settings import RunnerSettings

NETS = ("unet", "transformer", "transformer_2")
"""What denoises: the nets that a step runs one of."""


def place(pipes: Iterable[Any], settings: RunnerSettings, device: torch.device) -> None:
    """Puts pipelines that share their nets where the settings say. Raises SetupError for an offload without a GPU."""
    if settings.offload != "none" and device.type != "cuda":
        raise SetupError(f"offload: {settings.offload!r} moves nets between main memory and a GPU; this is {device}")
    for pipe in pipes:
        if settings.offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        elif settings.offload == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        else:
            pipe.to(device)
        if settings.channels_last and device.type == "cuda" and settings.offload == "none":
            lay_out(pipe)


def compile_net(pipe: Any) -> None:
    """Compiles the net that a step runs, in place, for every pipeline that shares it. It is slow at its first call."""
    for name in NETS:
        net = getattr(pipe, name, None)
        if net is not None:
            net.compile()


def keep_kernels(settings: RunnerSettings) -> None:
    """Says where compiled kernels are kept. Before anything is compiled; the compiler reads it from the environment."""
    if settings.compile and settings.compile_cache is not None:
        settings.compile_cache.mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(settings.compile_cache.resolve())


def lay_out(pipe: Any) -> None:
    """Lays out the convolution nets as the GPU's kernels prefer. Nets over time have no such layout, and stay."""
    for name in ("unet", "vae"):
        net = getattr(pipe, name, None)
        if net is not None and all(weights.dim() < 5 for weights in net.parameters()):
            net.to(memory_format=torch.channels_last)
