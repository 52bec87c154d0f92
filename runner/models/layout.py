"""Which of a model folder's weights are read: of each component one set, by the names that diffusers gives to files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.backend import SetupError

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""What a library calls a component's weights."""
_NO_NETS = ("Tokenizer", "TokenizerFast", "Processor", "ProcessorFast", "Scheduler", "FeatureExtractor")
"""How classes end that have no weights."""
_FIRST = ("fp16", "bf16", "fp32")
"""Variants in the order in which one is taken, after weights that name none."""
_AUTOENCODER = "decoder.conv_in.weight"
"""A tensor of each autoencoder, by its original trainers' names and by diffusers'."""
_CHECKPOINT = ("model.diffusion_model.", "double_blocks.", "joint_blocks.")
"""How tensors of a checkpoint of a diffusion model begin."""
_VAE = "vae"
_MARKS = {
    _VAE: r"decoder\.conv_in\.weight$",
    "text_encoder": r"^(cond_stage_model|conditioner|text_encoders?)\.",
}
"""How a checkpoint's tensors are called that are a component's."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One component's weights: its folder, library and class.

    `variant`: of the files that are read; None: those that name none. `file`: the only one there, by a name of its own.
    """

    folder: Path
    library: str
    class_name: str
    variant: str | None = None
    file: Path | None = None

    @property
    def stem(self) -> str:
        """What its library calls weights, without variant and ending."""
        return _STEMS[self.library]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a model's weights are: by component; with `checkpoint` in one file, beside which some components may lie.

    `vae_file`: an autoencoder as one file beside the checkpoint.
    """

    components: Mapping[str, Weights]
    checkpoint: Path | None = None
    vae_file: Path | None = None


def layout_of(folder: Path, index: Mapping[str, object], paths: tuple[Path, ...]) -> Layout:
    """The layout of a folder with this model_index.json and these files of the model.

    Raises SetupError for a component whose weights are missing, or have names that no library reads.
    """
    found: dict[str, Weights] = {}
    faults: list[str] = []
    for name, library, class_name in _nets(index):
        if not _is_net(folder / name):
            continue
        try:
            found[name] = _weights(folder / name, library, class_name)
        except SetupError as error:
            faults.append(str(error))
    top = [path for path in paths if path.parent == folder and path.suffix == ".safetensors"]
    if not faults or not top:
        if faults:
            raise SetupError(faults[0])
        return Layout(found)
    vaes = [path for path in top if _has(path, _AUTOENCODER) and not is_checkpoint(path)]
    checkpoints = [path for path in top if path not in vaes]
    if len(checkpoints) != 1 or len(vaes) > 1:
        names = ", ".join(path.name for path in (checkpoints if len(checkpoints) != 1 else vaes)) or "none"
        raise SetupError(
            f"{folder}: expected one checkpoint at its top and at most one VAE, found {names}; {faults[0]}"
        )
    layout = Layout(found, checkpoints[0], vaes[0] if vaes and _VAE not in found else None)
    _check_checkpoint(layout, index, checkpoints[0])
    return layout


def component_class(index: Mapping[str, object], name: str) -> str:
    """The class of a component by a model_index.json; empty for none."""
    return next((class_name for found, _, class_name in _nets(index) if found == name), "")


def tensor_names(path: Path) -> list[str]:
    """The names in the header of a safetensors file that is whole."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return [name for name in header if name != "__metadata__"]


def _is_net(folder: Path) -> bool:
    """Whether a component has a configuration of a net, or weights: tokenizers' classes have many names."""
    return (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))


def _weights(folder: Path, library: str, class_name: str) -> Weights:
    named = list(folder.glob("*.safetensors"))
    if len(named) == 1 and not _variants(folder, _STEMS[library]):
        return Weights(folder, library, class_name, file=named[0])
    return Weights(folder, library, class_name, variant_in(folder, library))


def variant_in(folder: Path, library: str = "transformers") -> str | None:
    """The variant of a component that is read; None: files that name none. Raises SetupError."""
    variants = _variants(folder, _STEMS[library])
    if not variants:
        raise SetupError(_without(folder, _STEMS[library]))
    if "" in variants:
        return None
    return next((name for name in _FIRST if name in variants), sorted(variants)[0])


def _without(folder: Path, stem: str) -> str:
    named = sorted(path.name for path in folder.glob("*.safetensors"))
    if not named:
        return f"{folder}: has no safetensors weights"
    return (
        f"{folder}: no library reads its weights by these names ({', '.join(named[:3])}); expected "
        f"{stem}.safetensors, {stem}.VARIANT.safetensors, or all shards with their {stem}.safetensors.index.json"
    )


def _nets(index: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """The components that have weights, as name, library and class."""
    for name, kind in index.items():
        match kind:
            case [str(library), str(class_name)] if library in _STEMS and not class_name.endswith(_NO_NETS):
                yield name, library, class_name


def _variants(folder: Path, stem: str) -> set[str]:
    """The variants of which all weights are there; the empty one: files that name none."""
    whole = re.compile(rf"{stem}(?:\.(?P<variant>\w+))?\.safetensors")
    shards = re.compile(rf"{stem}\.safetensors\.index(?:\.(?P<variant>\w+))?\.json")
    found: set[str] = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if one := whole.fullmatch(path.name):
            found.add(one["variant"] or "")
        elif (many := shards.fullmatch(path.name)) and _has_shards(path):
            found.add(many["variant"] or "")
    return found


def _has_shards(index: Path) -> bool:
    """Whether all files that an index of shards names are there. Raises SetupError for one that is no such index."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SetupError(f"{index}: not a list of shards, or damaged; download it again") from None
    if missing := sorted(name for name in names if not (index.parent / str(name)).is_file()):
        raise SetupError(f"{index.parent / missing[0]}: missing, and {index.name} names it; download it again")
    return True


def _check_checkpoint(layout: Layout, index: Mapping[str, object], checkpoint: Path) -> None:
    """Raises SetupError for a checkpoint that lacks a component which does not lie beside it either."""
    beside = {*layout.components} | ({_VAE} if layout.vae_file else set())
    names = tensor_names(checkpoint)
    for name, _, _ in _nets(index):
        if name in beside or name not in _MARKS or any(re.search(_MARKS[name], tensor) for tensor in names):
            continue
        way = ", or its checkpoint as vae.safetensors" if name == _VAE else ""
        raise SetupError(
            f"{checkpoint}: the model cannot be read: the file has no {name} in it, and none lies beside it; put one "
            f"there: a folder `{name}` with its config.json and its weights, in diffusers layout{way}"
        )


def _has(path: Path, ending: str) -> bool:
    return any(name.endswith(ending) for name in tensor_names(path))


def is_checkpoint(path: Path) -> bool:
    """Whether a safetensors file has a diffusion model by the names of its original trainers."""
    return any(name.startswith(_CHECKPOINT) for name in tensor_names(path))
