"""A model's nets without their weights: shapes and number formats on torch's meta device, which hold no memory."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from transformers import PreTrainedModel

from runner.backend import SetupError
from runner.memory_budget import Weights
from runner.models.digest import INDEX, component_names, read_json
from runner.models.memory import NETS
from runner.models.tracing import META

_LIBRARIES = ("diffusers", "transformers")
_MAIN = (*NETS, "vae")
"""Of these, the first that a model has says in which numbers it works."""
_OF_OTHERS = frozenset({"safety_checker"})
"""Nets that no stage of a job's estimate runs."""


@dataclass(frozen=True, slots=True)
class Nets:
    """A model's nets on META, by the names of their components. `dtype`: what its main net works in."""

    modules: Mapping[str, Any]
    dtype: torch.dtype
    weights: Mapping[str, Weights] = field(init=False)

    def __post_init__(self) -> None:
        found = {name: weights_of(net) for name, net in self.modules.items()}
        object.__setattr__(self, "weights", found)

    def __getitem__(self, name: str) -> Any:
        return self.modules[name]

    def __contains__(self, name: str) -> bool:
        return name in self.modules

    def dtype_of(self, name: str) -> torch.dtype:
        """The number format of a net, which may be another one than the main net's."""
        found: torch.dtype = next(self.modules[name].parameters()).dtype
        return found

    def tensor(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor without numbers."""
        return torch.empty(shape, dtype=dtype or self.dtype, device=META)

    def config(self, name: str, key: str, default: Any = None) -> Any:
        """A value of a net's configuration."""
        found = getattr(self.modules[name].config, key, default)
        return default if found is None else found

    def in_float32(self, name: str) -> Any:
        """A copy of a net in 32 bits, as pipelines make of a VAE that leaves float16's range."""
        return copy.deepcopy(self.modules[name]).to(torch.float32)


def weights_of(net: Any) -> Weights:
    """What a net's weights take; their shapes and number formats are all that is looked at."""
    total = sum(weights.nbytes for weights in net.parameters())  # those that two layers share count once
    layers = (sum(weights.nbytes for weights in module.parameters(recurse=False)) for module in net.modules())
    return Weights(total, max(layers))


def shadows_of(components: Mapping[str, Any]) -> Nets:
    """Shadows of a pipeline's nets, made from their configurations: without hooks, LoRAs and compilation."""
    return _nets({name: _shadow(net) for name, net in components.items() if _is_net(name, net)})


def shadows_in(folder: Path, dtype: torch.dtype, in_float32: Container[str] = ()) -> Nets:
    """Shadows of the nets whose configurations lie in a model's folder; weights need not be there. Raises SetupError.

    `in_float32`: nets that are not of `dtype`.
    """
    index = read_json(folder / INDEX)
    made: dict[str, Any] = {}
    for name in component_names(index):
        library, kind = _library_and_class(index[name])
        if library in _LIBRARIES and (folder / name / "config.json").exists():
            made[name] = _from_config(library, kind, read_json(folder / name / "config.json"))
    return of_format(made, dtype, in_float32)


def of_format(components: Mapping[str, Any], dtype: torch.dtype, in_float32: Container[str] = ()) -> Nets:
    """Nets that are on META already, in a number format."""
    found = {name: net for name, net in components.items() if _is_net(name, net)}
    return _nets({name: _on_meta(net, torch.float32 if name in in_float32 else dtype) for name, net in found.items()})


def _nets(modules: Mapping[str, Any]) -> Nets:
    return Nets(modules, next(modules[name].dtype for name in _MAIN if name in modules))


def _is_net(name: str, net: Any) -> bool:
    return isinstance(net, ModelMixin | PreTrainedModel) and name not in _OF_OTHERS


def _shadow(net: Any) -> Any:
    with META:
        made = type(net).from_config(net.config) if isinstance(net, ModelMixin) else type(net)(net.config)
    return _on_meta(made, net.dtype)


def _on_meta(net: Any, dtype: torch.dtype) -> Any:
    """Some tensors are made elsewhere, whatever device is asked for."""
    return net.to(META).to(dtype).eval().requires_grad_(False)


def _library_and_class(entry: object) -> tuple[str, str]:
    assert isinstance(entry, list), "component_names gives lists alone"
    return str(entry[0]), str(entry[1])


def _from_config(library: str, class_name: str, config: Mapping[str, Any]) -> Any:
    """A net on META; None for a class that is none: schedulers and tokenizers have configurations too."""
    kind = getattr(importlib.import_module(library), class_name, None)
    if kind is None:
        raise SetupError(f"{library} has no class {class_name}; this version serves another kind of model")
    if not issubclass(kind, ModelMixin | PreTrainedModel):
        return None
    with META:
        if library == "diffusers":
            return kind.from_config(dict(config))
        return kind(kind.config_class.from_dict(dict(config)))
