"""Writes a pipeline whose nets lie on the meta device as a folder: configurations, and random weights in float16.

Weights are written tensor by tensor: no more than the largest one is in memory, with a pool that all are cut from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runner.models.tiny_nets import bound_of, constant_of

_SEED = 20240917
_POOL = 2**24 + 43
"""Values that are drawn once, 64 MiB. A prime: rows of a matrix, as wide as they may be, do not repeat each other."""
_ALIGN = 8
_FILES = {True: "diffusion_pytorch_model.safetensors", False: "model.safetensors"}
"""The weights' name as diffusers and as transformers look for it."""


def weight_bytes(pipe: Any) -> int:
    """Bytes of all its nets in float16."""
    return sum(2 * weights.numel() for net in _nets(pipe).values() for weights in net.state_dict().values())


def write(folder: Path, pipe: Any) -> None:
    """The pipeline as a new folder in diffusers layout. Raises OSError."""
    folder.mkdir()
    pool = _Pool()
    nets = _nets(pipe)
    for name, part in pipe.components.items():
        if name in nets:
            _write_net(folder / name, part, pool)
        elif part is not None:
            part.save_pretrained(folder / name)
    pipe.save_config(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # a container reads them as somebody else


def _nets(pipe: Any) -> dict[str, Any]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def _write_net(folder: Path, net: Any, pool: _Pool) -> None:
    folder.mkdir()
    of_diffusers = hasattr(net, "save_config")
    if of_diffusers:
        net.save_config(folder)
    else:
        net.config.save_pretrained(folder)
    shapes = {name: tuple(weights.shape) for name, weights in net.state_dict().items()}
    header = _header(shapes)
    with (folder / _FILES[of_diffusers]).open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, shape in shapes.items():
            file.write(pool.weights(name, shape).numpy().data)


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The head of a safetensors file (github.com/huggingface/safetensors, "Format"): where each tensor lies."""
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * math.prod(shape)
        head[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(head, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % _ALIGN)


class _Pool:
    """Even random values in ±1, the same on every machine, handed out one after the other, over and over."""

    def __init__(self) -> None:
        drawn = np.random.default_rng(_SEED).random(_POOL, np.float32)
        self._values = torch.from_numpy(drawn * 2 - 1)
        self._at = 0

    def weights(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A net's weights of that name, float16, as small nets are filled: activations keep their size."""
        constant = constant_of(name, shape)
        if constant is not None:
            return torch.full(shape, constant, dtype=torch.float16)
        # small nets draw an embedding's layers as wide as its table: at this size they would drown the picture
        bound = bound_of(name.replace("embedding.linear", "linear"), shape)
        return self._take(math.prod(shape)).mul_(bound).to(torch.float16).reshape(shape)

    def _take(self, count: int) -> torch.Tensor:
        taken = torch.empty(count)
        done = 0
        while done < count:
            some = min(count - done, _POOL - self._at)
            taken[done : done + some] = self._values[self._at : self._at + some]
            self._at, done = (self._at + some) % _POOL, done + some
        return taken
