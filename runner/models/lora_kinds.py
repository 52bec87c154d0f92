"""What a LoRA file holds, told from its header and its numbers before any model is loaded with it.

A LoRA has two thin matrices for a layer, in three spellings: peft's (lora_A, lora_B), kohya's (lora_down, lora_up) and
that of older diffusers (lora.down, lora.up). Trainers write other things under the same file name; each has a row here.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runner.backend import SetupError
from runner.models.digest import read_json

_PART = re.compile(
    r"(?P<layer>.+?)[._]lora(?:_linear_layer)?(?P<number>\d?)[._](?P<part>down|up|A|B|magnitude_vector)"
    r"(?:\.default)?(?:\.(?P<kind>weight|bias))?$"
)
_SIDES = {"down": "down", "A": "down", "up": "up", "B": "up", "magnitude_vector": "magnitude"}
_BESIDE = {".alpha": "alpha", ".dora_scale": "magnitude", ".diff": "diff", ".diff_b": "diff"}
_OTHERS = (
    (r"\.hada_", "is a LoHa (products of two LoRAs)"),
    (r"\.lokr_", "is a LoKr (Kronecker products)"),
    (r"\.lora_mid\b", "is a LoCon with a Tucker core (lora_mid)"),
    (r"\.(a1|a2|b1|b2)\.weight$", "is a GLoRA"),
    (r"\.(oft_|boft_)", "is an OFT or BOFT (rotations of weights)"),
    (r"\.(ia3_|on_input$)", "is an IA³ (scales of activations)"),
    (r"\.(w_norm|b_norm)$", "has trained norms (w_norm)"),
    (r"(^|\.)(vera_|randlora_)", "is a VeRA"),
    (r"\.lora_embedding_", "has a LoRA of an embedding"),
    (r"(^|\.)(bundle_emb\.|emb_params$|string_to_param)|^(clip_[gl]|t5xxl|<.+>)$",
     "has embeddings of textual inversion in it"),
    (r"(^|\.)lora_controlnet$", "is a Control-LoRA"),
    (r"(^|\.)(scale_weight|weight_scale|input_scale|absmax|quant_map)$", "is quantised, with scales of its own"),
    (r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.", "is a model's checkpoint"),
    (r"\.modules_to_save\.|\.(weight|bias)$", "has whole weights of layers beside the LoRA's"),
)  # fmt: skip
_NUMBERS: Mapping[str, tuple[type, int]] = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E5M2": (np.uint8, 0x7C),
    "F8_E4M3": (np.uint8, 0x7F),
    "F8_E4M3FN": (np.uint8, 0x7F),
}
"""Formats of numbers, each with the bits that are all set in what is no number."""
_NAMED = 3
_KIN = r"\.(hada_|lokr_|lora_mid|oft_|boft_|ia3_|vera_)|\.diff$|^(bundle_emb\.|emb_params$|<.+>$)"


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor's place: `layer` as the file names it, `side` down, up, magnitude or alpha, `bias` of a matrix."""

    layer: str
    side: str
    bias: bool = False


def part_of(key: str) -> Part | None:
    """What a tensor of this name is in a LoRA; None for none."""
    if found := _PART.match(key):
        return Part(found["layer"] + found["number"], _SIDES[found["part"]], found["kind"] == "bias")
    for ending, side in _BESIDE.items():
        if key.endswith(ending):
            return Part(key.removesuffix(ending), side)
    return None


def is_adapter(names: Iterable[str]) -> bool:
    """Whether tensors of these names change a model, as a LoRA or one of its kin does, and are none by themselves."""
    return any(re.search(_KIN, name) or ((part := part_of(name)) and part.side in ("down", "up")) for name in names)


def check_kind(path: Path) -> None:
    """Raises SetupError for a file that is no LoRA, is another kind of one, or has numbers that are none.

    The file is whole: see `check_whole`.
    """
    tensors, start = _header(path)
    if not tensors:
        raise SetupError(f"loras: {path}: has no tensors; download it again")
    for reason in _foreign(tensors):
        raise SetupError(f"loras: {path}: {reason}; only LoRAs of two matrices a layer are served")
    for reason in itertools.chain(_unpaired(tensors), _unread_formats(tensors), _outside(path)):
        raise SetupError(f"loras: {path}: {reason}")
    content = np.memmap(path, np.uint8, "r", offset=start)
    for name, tensor in tensors.items():
        _check_numbers(path, name, tensor, content)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors of a safetensors file by name (dtype, shape, data_offsets), and where their bytes begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        tensors = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    return tensors, 8 + length


def _foreign(tensors: Mapping[str, Any]) -> Iterator[str]:
    """Why tensors are not a LoRA's."""
    strange = [name for name in tensors if part_of(name) is None]
    for pattern, reason in _OTHERS:
        if found := [name for name in strange if re.search(pattern, name)]:
            yield f"{reason}: {some(found)}"
    if strange:
        yield f"has tensors that no LoRA has: {some(strange)}"


def _unpaired(tensors: Mapping[str, Any]) -> Iterator[str]:
    """Layers of which a matrix is missing, and magnitudes that peft has no place for."""
    layers: dict[str, dict[str, list[int]]] = {}
    for name, tensor in tensors.items():
        part = part_of(name)
        assert part is not None
        if not part.bias:
            layers.setdefault(part.layer, {})[part.side] = tensor["shape"]
    if half := [layer for layer, sides in layers.items() if len({"down", "up"} & set(sides)) == 1]:
        yield f"has one of two matrices for {some(half)}; download it again"
    pairs = {layer: sides for layer, sides in layers.items() if "down" in sides}
    if flat := [layer for layer, sides in pairs.items() if min(len(sides["down"]), len(sides["up"])) < 2]:
        yield f"has no matrix, but a row of numbers, for {some(flat)}; download it again"
    ranks = {layer for layer, sides in pairs.items() if sides["down"][0] != sides["up"][1]}
    if ranks:
        yield f"has two matrices of different ranks for {some(sorted(ranks))}; download it again"
    if not pairs and any("diff" in sides for sides in layers.values()):
        yield f"has full differences of weights (.diff) and no LoRA: {some(list(layers))}"
    if lone := [layer for layer, sides in layers.items() if layer not in pairs and set(sides) != {"diff"}]:
        yield f"has no matrices for {some(lone)}"
    across = [layer for layer, sides in pairs.items() if _across(sides.get("magnitude", [1]), sides["up"][0])]
    if across:
        yield (
            f"is a DoRA with a magnitude for each input of a layer ({some(across)}); only those for each output are "
            "served: train it with wd_on_output"
        )


def _across(shape: list[int], outputs: int) -> bool:
    """Whether DoRA's magnitudes are not one for each of a layer's outputs: (out,) or (out, 1, …)."""
    return shape != [1] and (not shape or shape[0] != outputs or any(size != 1 for size in shape[1:]))


def _unread_formats(tensors: Mapping[str, Any]) -> Iterator[str]:
    strange = [name for name, tensor in tensors.items() if tensor["dtype"] not in _NUMBERS and not _is_alpha(name)]
    if strange:
        formats = ", ".join(sorted({tensors[name]["dtype"] for name in strange}))
        yield f"has tensors of format {formats} ({some(strange)}), which is not read; store it in float16 or bfloat16"


def _is_alpha(name: str) -> bool:
    part = part_of(name)
    return part is not None and part.side == "alpha"


def _outside(path: Path) -> Iterator[str]:
    """What peft's configuration beside a file says that the file itself does not: its digest would not cover it."""
    config = path.with_name("adapter_config.json")
    if not path.name.startswith("adapter_model") or not config.is_file():
        return
    said = read_json(config)
    if said.get("peft_type", "LORA") != "LORA":
        yield f"adapter_config.json says that it is a {said['peft_type']}, not a LoRA"
    patterns = (said.get("alpha_pattern"), said.get("rank_pattern"), said.get("use_rslora"))
    if said.get("lora_alpha") != said.get("r") or any(patterns):
        yield (
            "adapter_config.json beside it gives it a scale (lora_alpha) that the file lacks; store it with the "
            "pipeline's save_lora_weights, which writes the scale into the file"
        )


def _check_numbers(path: Path, name: str, tensor: Mapping[str, Any], content: Any) -> None:
    """Raises SetupError for NaN and infinity, and for a full difference that changes anything."""
    if tensor["dtype"] not in _NUMBERS:
        return
    kind, mask = _NUMBERS[tensor["dtype"]]
    begin, end = tensor["data_offsets"]
    bits: Any = np.frombuffer(content[begin:end].tobytes(), kind)
    if ((bits & kind(mask)) == mask).any():
        raise SetupError(f"loras: {path}: {name} has values that are no numbers (NaN or infinity); train it again")
    part = part_of(name)
    if part is not None and part.side == "diff" and bits.any():
        raise SetupError(
            f"loras: {path}: has full differences of weights beside the LoRA's (.diff, .diff_b): {name}; only LoRAs "
            "of two matrices a layer are served"
        )


def some(names: list[str]) -> str:
    """The first few of these."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
