"""Where a model's nets lie and how they are laid out: offload, channels-last, compilation."""

from __future__ import annotations

import os
import shutil
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


def denoisers(pipe: Any) -> list[Any]:
    """The nets that a step runs one of."""
    return [net for name in NETS if (net := getattr(pipe, name, None)) is not None]


def compile_net(pipe: Any) -> None:
    """Compiles the nets that a step runs one of, for every pipeline that has them: slow at the first call.

    Raises SetupError without the C compiler that torch's needs, on a GPU too: Triton builds its launchers with it.
    """
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise SetupError("compile: needs a C compiler; install gcc, or leave the setting out")
    for net in denoisers(pipe):
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
