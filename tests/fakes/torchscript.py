"""TorchScript files of given tensors, as FILM is published."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn


class Shell(nn.Module):
    """A module that only holds others: enough for a TorchScript file with the same names."""

    def forward(self, picture: Tensor) -> Tensor:
        return picture


def shells(tensors: dict[str, Tensor]) -> nn.Module:
    root = Shell()
    for name, tensor in tensors.items():
        *path, last = name.split(".")
        node: nn.Module = root
        for part in path:
            if part not in dict(node.named_children()):
                node.add_module(part, Shell())
            node = node.get_submodule(part)
        node.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
    return root


def script(tensors: dict[str, Tensor], path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; the published file was written with it
        torch.jit.script(shells(tensors)).save(str(path))
    return path
