"""Where a LoRA's matrices go in a model's nets, and with what scale: each one of the file, or none.

Diffusers knows the names that trainers give to layers, but drops what it does not know, and takes one scale for another
in some layouts. So its converters run twice: with numbers that stand for the file's tensors, which shows where each one
goes; and with the tensors themselves. What it would put into a net is caught, held against the file, and loaded then.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils.state_dict_utils import (
    StateDictType,
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft.utils.other import get_pattern_key
from safetensors import safe_open

from runner.models.lora_kinds import part_of, some

_LOADERS = ("load_lora_into_unet", "load_lora_into_transformer", "load_lora_into_text_encoder")
_PLAIN = (torch.float32, torch.float16, torch.bfloat16)
_FOREIGN_PREFIX = "base_model.model."
"""What peft puts before each name."""

Tensors = dict[str, Any]


class MisfitError(ValueError):
    """A LoRA's layers are not the model's; the text says which and why. `fitting` of its layers are."""

    def __init__(self, message: str, fitting: int = 0) -> None:
        super().__init__(message)
        self.fitting = fitting


@dataclass(frozen=True, slots=True)
class Goal:
    """What diffusers would put into one net: `state` by names of peft, behind the net's own name and a dot."""

    loader: str
    net: Any
    prefix: str
    state: Tensors
    options: Mapping[str, Any]


@dataclass(slots=True)
class _Layer:
    """A layer of the file: its matrices' keys, its rank, its scale, its DoRA magnitudes."""

    keys: set[str] = field(default_factory=set)
    rank: int = 0
    alpha: float | None = None
    magnitude: Any = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a matrix of the file goes: the goal's index, the net's layer, the name behind that, and its shape there."""

    goal: int
    layer: str
    side: str
    shape: tuple[int, ...]


def load_layers(pipe: Any, path: Path, adapter: str, options: Mapping[str, Any]) -> None:
    """Puts a LoRA's file into the pipeline's nets under the name `adapter`, each layer with the file's own scale.

    `options` go to diffusers. Raises MisfitError before anything is loaded, and what is raised while it is.
    """
    tensors, said = _read(path)
    neutral, layers, placed = _plan(pipe, tensors, options)
    for index, goal in enumerate(_goals(pipe, neutral, options)):
        sources = {layer: [layers[name] for name in names] for (at, layer), names in placed.items() if at == index}
        if sources:
            _load(pipe, goal, adapter, sources, _net_settings(said, goal.prefix))


def _plan(
    pipe: Any, tensors: Tensors, options: Mapping[str, Any]
) -> tuple[Tensors, dict[str, _Layer], dict[tuple[int, str], list[str]]]:
    """What is given to diffusers, the file's layers, and those of each place. Raises MisfitError.

    Names are taken as they are, and then with a net's name before them where they have none. The misfit that is told is
    that of the names of which most layers fit.
    """
    misfits: list[MisfitError] = []
    for named in _namings(pipe, tensors):
        layers, neutral = _layers(named)
        marks = {number + 1: key for number, key in enumerate(neutral)}
        numbered = {key: neutral[key] if _side(key) == "alpha" else _mark(neutral[key], n) for n, key in marks.items()}
        try:
            goals = _goals(pipe, numbered, options)
            return neutral, layers, _check_fit(layers, _places(goals, marks), goals)
        except MisfitError as error:
            misfits.append(error)
    raise max(misfits, key=lambda error: error.fitting)


def _read(path: Path) -> tuple[Tensors, Mapping[str, Any]]:
    """The file's tensors, and peft's settings in it by net."""
    with safe_open(path, "pt") as content:
        said = json.loads((content.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY) or "{}")
        tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118 - it is no mapping
    whole = {key: tensor if tensor.dtype in _PLAIN else tensor.float() for key, tensor in tensors.items()}
    return {key: value for key, value in whole.items() if _side(key) != "diff"}, said


def _namings(pipe: Any, tensors: Tensors) -> Iterator[Tensors]:
    """The tensors as they are named; and by names that say their net, where one net was saved alone or by peft."""
    yield tensors
    bare = {key.removeprefix(_FOREIGN_PREFIX): value for key, value in tensors.items()}
    if bare.keys() != tensors.keys():
        yield bare
    name = next((name for name in ("unet", "transformer") if getattr(pipe, name, None) is not None), "")
    parts = {part for part, _ in getattr(pipe, name).named_children()} if name else set()
    if all(key.split(".")[0] in parts for key in bare):
        yield {f"{name}.{key}": value for key, value in bare.items()}


def _layers(tensors: Tensors) -> tuple[dict[str, _Layer], Tensors]:
    """The file's layers by name; and its tensors with scales that change nothing, as the scale is set at the end."""
    layers: dict[str, _Layer] = {}
    for key, tensor in tensors.items():
        part = part_of(key)
        if part is None:
            raise MisfitError(f"{key} is no LoRA's")
        layer = layers.setdefault(part.layer, _Layer())
        match part.side:
            case "alpha":
                layer.alpha = float(tensor)
            case "magnitude":
                layer.magnitude = tensor.flatten()
            case side:
                layer.keys.add(key)
                if side == "down" and not part.bias:
                    layer.rank = int(tensor.shape[0])
    return layers, _neutral(tensors, layers)


def _neutral(tensors: Tensors, layers: Mapping[str, _Layer]) -> Tensors:
    """The tensors without magnitudes, and with each alpha as large as its rank.

    Names of peft have no alpha beside them that a converter would know.
    """
    kohya = any("lora_down" in key for key in tensors)
    neutral = {key: value for key, value in tensors.items() if _side(key) in ("down", "up")}
    if kohya:
        alphas = (key for key in tensors if _side(key) == "alpha")
        neutral |= {key: torch.tensor(float(layers[key.removesuffix(".alpha")].rank)) for key in alphas}
    return neutral


def _side(key: str) -> str:
    part = part_of(key)
    return part.side if part else ""


def _mark(tensor: Any, number: int) -> Any:
    """A tensor of that shape that holds one number everywhere, and no memory."""
    return torch.tensor(float(number)).expand(tensor.shape)


def _goals(pipe: Any, tensors: Tensors, options: Mapping[str, Any]) -> list[Goal]:
    """What diffusers would load of these tensors, by net. Raises MisfitError for names that it cannot read."""
    goals: list[Goal] = []
    with _caught(pipe, goals):
        try:
            pipe.load_lora_weights(dict(tensors), **options)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            raise MisfitError(f"its layers' names are not those of this kind of model ({reason})") from None
    return goals


@contextlib.contextmanager
def _caught(pipe: Any, goals: list[Goal]) -> Iterator[None]:
    """While it lasts, what diffusers puts into the pipeline's nets is written into `goals` instead."""

    def into(loader: str) -> Any:
        def catch(state_dict: Tensors, **options: Any) -> None:
            goals.append(_goal(pipe, loader, state_dict, options))

        return catch

    patched = {name: into(name) for name in _LOADERS if hasattr(pipe, name)}
    patched["_maybe_expand_transformer_param_shape_or_error_"] = lambda *_, **__: False  # it would change the net
    for name, catch in patched.items():
        pipe.__dict__[name] = catch
    try:
        yield
    finally:
        for name in patched:
            del pipe.__dict__[name]


def _goal(pipe: Any, loader: str, state: Tensors, options: Mapping[str, Any]) -> Goal:
    part = loader.removeprefix("load_lora_into_")
    net = options.get(part)
    prefix = options.get("prefix") or str(getattr(pipe, f"{part}_name", part))
    own = {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.startswith(f"{prefix}.")}
    if net is None:
        own = {}
    if own and part == "text_encoder":
        own = _of_words(own)
        if not hasattr(net, "text_model"):
            own = {key.removeprefix("text_model."): value for key, value in own.items()}
    elif own and not any(".lora_A." in key for key in own):
        own = convert_unet_state_dict_to_peft(own)
    kept = {key: value for key, value in options.items() if key not in ("adapter_name", "metadata", "network_alphas")}
    return Goal(loader, net, prefix, own, kept)


def _of_words(state: Tensors) -> Tensors:
    """A text encoder's tensors by names of peft. Diffusers tells the older spelling by one layer, which may lack."""
    if any(".lora_A." in key for key in state):
        return state
    kind = StateDictType.DIFFUSERS_OLD if any("_lora." in key for key in state) else StateDictType.DIFFUSERS
    if kind is StateDictType.DIFFUSERS_OLD:
        state = convert_state_dict_to_diffusers(state, kind)
    return dict(convert_state_dict_to_peft(state, StateDictType.DIFFUSERS))


def _places(goals: list[Goal], marks: Mapping[int, str]) -> dict[str, list[Place]]:
    """Where each of the file's matrices goes, by its key; `goals` are of tensors that hold their numbers in `marks`."""
    places: dict[str, list[Place]] = {}
    for index, goal in enumerate(goals):
        for name, tensor in goal.state.items():
            layer, _, side = name.rpartition(".lora_")
            whole = tensor.flatten()[:1] if 0 in tensor.stride() else tensor.unique()
            for key in {marks[round(number)] for number in whole.tolist() if round(number) in marks}:
                places.setdefault(key, []).append(Place(index, layer, side, tuple(tensor.shape)))
    return places


def _check_fit(
    layers: Mapping[str, _Layer], places: Mapping[str, list[Place]], goals: list[Goal]
) -> dict[tuple[int, str], list[str]]:
    """The file's layers of each place (goal, layer). Raises MisfitError when one of them has none that it fits."""
    placed: dict[tuple[int, str], list[str]] = {}
    unfit: dict[str, str] = {}
    for name, layer in layers.items():
        where = [place for key in layer.keys for place in places.get(key, ())]
        reasons = [reason for place in where if (reason := _unfit(goals[place.goal].net, place))]
        if not all(places.get(key) for key in layer.keys):
            unfit[name] = "the model has no such layer"
        elif reasons:
            unfit[name] = reasons[0]
        for target in {(place.goal, place.layer) for place in where}:
            placed.setdefault(target, []).append(name)
    if unfit:
        raise MisfitError(_misfit(len(layers), unfit), len(layers) - len(unfit))
    _check_magnitudes(layers, placed, goals)
    return placed


def _misfit(count: int, unfit: Mapping[str, str]) -> str:
    told = "; ".join(
        f"{some([name for name, why in unfit.items() if why == reason])}: {reason}"
        for reason in dict.fromkeys(unfit.values())
    )
    if len(unfit) == count:
        return f"was made for another kind of model: none of its {count} layers fits ({told})"
    return f"{count - len(unfit)} of {count} layers fit this model ({told})"


def _unfit(net: Any, place: Place) -> str:
    """Why a matrix does not fit the net's layer; empty where it does."""
    layer = _net_layer(net, place.layer)
    if layer is None:
        return "the model has no such layer"
    weight = layer.weight
    inputs, outputs = math.prod(weight.shape[1:]), int(weight.shape[0])
    if place.side == "A.weight" and math.prod(place.shape[1:]) != inputs:
        return f"made for {math.prod(place.shape[1:])} inputs, the model has {inputs}"
    if place.side.startswith("B.") and place.shape[0] != outputs:
        return f"made for {place.shape[0]} outputs, the model has {outputs}"
    return ""


def _net_layer(net: Any, name: str) -> Any:
    """The net's own layer of that name, also where LoRAs are in it already; None for none that can have a LoRA."""
    try:
        layer = net.get_submodule(name)
    except AttributeError:
        return None
    layer = getattr(layer, "base_layer", layer)
    return layer if isinstance(layer, torch.nn.Linear | torch.nn.modules.conv._ConvNd) else None


def _check_magnitudes(
    layers: Mapping[str, _Layer], placed: Mapping[tuple[int, str], list[str]], goals: list[Goal]
) -> None:
    """Raises MisfitError for a DoRA that peft cannot draw: of some of a net's layers, or of layers that are joined."""
    for index in range(len(goals)):
        own = {layer: [layers[name] for name in names] for (at, layer), names in placed.items() if at == index}
        whole = {layer for layer, sources in own.items() if any(source.magnitude is not None for source in sources)}
        if whole and len(whole) < len(own):
            raise MisfitError(f"is a DoRA in {len(whole)} of {len(own)} layers of a net, which peft cannot draw")
        for layer in whole:
            outputs = int(_net_layer(goals[index].net, layer).weight.shape[0])
            if len(own[layer]) > 1 or own[layer][0].magnitude.numel() != outputs:
                raise MisfitError(f"is a DoRA whose layers are joined or split in this model ({layer})")


def _net_settings(said: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:
    """What the file says of one net's scales, by the names of peft's LoraConfig."""
    start = f"{prefix}."
    return {key.removeprefix(start): value for key, value in said.items() if key.startswith(start)}


def _scale(name: str, source: _Layer, said: Mapping[str, Any]) -> float:
    """What a layer's product of matrices is multiplied by: alpha / rank, of kohya's alpha or peft's settings."""
    if source.alpha is not None:
        return source.alpha / source.rank
    if "lora_alpha" not in said:
        return 1.0
    pattern = said.get("alpha_pattern") or {}
    alpha = float(pattern.get(get_pattern_key(list(pattern), name), said["lora_alpha"]))
    return alpha / (math.sqrt(source.rank) if said.get("use_rslora") else source.rank)


def _load(pipe: Any, goal: Goal, adapter: str, sources: Mapping[str, list[_Layer]], said: Mapping[str, Any]) -> None:
    """Puts what was caught into its net, and sets each layer's scale. Raises MisfitError when a layer is left out."""
    load = getattr(pipe, goal.loader)
    magnitudes = _dora(goal, sources)
    state = {f"{goal.prefix}.{name}": value for name, value in (_spelled(goal) | magnitudes).items()}
    needed = {"network_alphas": None} if "network_alphas" in inspect.signature(load).parameters else {}
    load(state, adapter_name=adapter, metadata=None, **needed, **goal.options)
    loaded = {name: layer for name, layer in goal.net.named_modules() if adapter in getattr(layer, "lora_A", ())}
    if set(loaded) != set(sources):
        left = some(sorted(set(sources) ^ set(loaded)))
        raise MisfitError(f"{len(loaded)} of {len(sources)} layers could be put into the model ({left} could not)")
    _check_loaded(loaded, goal, magnitudes, adapter)
    for name, layer in loaded.items():
        scales = {_scale(name, source, said) for source in sources[name]}
        if len(scales) > 1:
            raise MisfitError(f"has scales that differ ({scales}) in what is one layer of this model ({name})")
        scale = scales.pop()
        layer.lora_alpha[adapter] = scale * layer.r[adapter]  # what a job's strength is multiplied by
        layer.scaling[adapter] = scale


def _check_loaded(loaded: Mapping[str, Any], goal: Goal, magnitudes: Tensors, adapter: str) -> None:
    """Holds the net's tensors against those that were given. Transformers leaves magnitudes out: they are set here.

    Raises MisfitError for one that is not there. Those that `offload: sequential` keeps away cannot be compared.
    """
    given = _shaped(goal)
    for name, layer in loaded.items():
        for side in ("A", "B"):
            weight = getattr(layer, f"lora_{side}")[adapter].weight
            meant = given[f"{name}.lora_{side}.weight"].to(weight.dtype)
            if weight.device.type != "meta" and not torch.equal(weight.cpu(), meant):
                raise MisfitError(f"was not taken over as it is by the model's libraries ({name})")
        if (magnitude := magnitudes.get(f"{name}.lora_magnitude_vector")) is not None:
            _set_magnitude(layer.lora_magnitude_vector[adapter].weight, magnitude, name)


def _set_magnitude(weight: Any, magnitude: Any, name: str) -> None:
    if weight.device.type == "meta":
        raise MisfitError(f"is a DoRA, which `offload: sequential` keeps away from its net ({name})")
    weight.data.copy_(magnitude.reshape(weight.shape))


def _dora(goal: Goal, sources: Mapping[str, list[_Layer]]) -> Tensors:
    """The magnitudes of a DoRA, as peft has them: (out,), of a convolution (1, out, 1, …)."""
    found = {layer: origins[0].magnitude for layer, origins in sources.items() if origins[0].magnitude is not None}
    shapes = {layer: _net_layer(goal.net, layer).weight.shape[2:] for layer in found}
    return {
        f"{layer}.lora_magnitude_vector": value.reshape(1, -1, *(1 for _ in shapes[layer])) if shapes[layer] else value
        for layer, value in found.items()
    }


def _spelled(goal: Goal) -> Tensors:
    """The matrices by the names that diffusers knows for any layer of such a net."""
    if goal.loader != "load_lora_into_text_encoder":
        return _shaped(goal)
    older = {".lora_A.": ".lora_linear_layer.down.", ".lora_B.": ".lora_linear_layer.up."}
    return {
        name.replace(spelled, older[spelled]): value
        for name, value in _shaped(goal).items()
        for spelled in older
        if spelled in name
    }


def _shaped(goal: Goal) -> Tensors:
    """The matrices in the dimensions of the net's layers: trainers differ on convolutions of one pixel."""
    shaped: Tensors = {}
    for name, tensor in goal.state.items():
        layer, _, side = name.rpartition(".lora_")
        weight = _net_layer(goal.net, layer).weight
        if side == "A.weight":
            tensor = tensor.reshape(tensor.shape[0], *weight.shape[1:])
        elif side == "B.weight":
            tensor = tensor.reshape(*tensor.shape[:2], *(1 for _ in weight.shape[2:]))
        shaped[name] = tensor.contiguous()
    return shaped
