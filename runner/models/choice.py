"""Which files of a repository make up a model: safetensors and configurations, each weight once."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from runner.models.digest import CARD, CONFIGS, PICKLES, WEIGHTS
from runner.models.store import StoreError

SAFETY_CHECKER = "safety_checker"
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_NAMED = 5
"""Files that a message names."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants of a repository.

    variant: `fp16` for the files that say so in their name. weights: these safetensors files and no others.
    """

    variant: str | None = None
    weights: tuple[str, ...] = ()
    safety_checker: bool = True


def choose(paths: Iterable[str], components: Collection[str] | None, wish: Wish) -> list[str]:
    """The paths to store, sorted. `components`: the folders that model_index.json names; None: there is no index.

    Raises StoreError for paths that lead out of the folder, for weights that are pickles only, and for a wish that
    the repository cannot fulfil.
    """
    safe = [path for path in map(checked_path, paths) if not _hidden(path)]
    if components is not None:
        components = {name for name in components if name != SAFETY_CHECKER or _takes_checker(safe, wish)}
        safe = [path for path in safe if _top(path) in {*components, ""}]
    configs = [path for path in safe if path.suffix in CONFIGS and path.name != CARD and not _is_index(path)]
    weights = _weights(safe, components, wish)
    chosen = {(path.parent, _variant(path)) for path in weights}
    shards = [path for path in safe if _is_index(path) and (path.parent, _variant(path)) in chosen]
    return sorted(map(str, {*configs, *weights, *shards}))


def checked_path(path: str) -> PurePosixPath:
    """`path`, when it stays below its folder. Raises StoreError: a hub that sends another one is not to be trusted."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable() or len(path) > 500:
        raise StoreError(
            f"the hub names a file {path[:80]!r}, which leads out of the model's folder; nothing is stored"
        )
    return PurePosixPath(path)


def _weights(safe: list[PurePosixPath], components: Collection[str] | None, wish: Wish) -> list[PurePosixPath]:
    found = [path for path in safe if path.suffix in WEIGHTS]
    if wish.weights:
        return _named(found, wish.weights)
    if components is None:
        return _of_variant(found, wish.variant) or _refuse(safe, "the repository")
    chosen: list[PurePosixPath] = []
    varied = any(_top(path) in components and _variant(path) == wish.variant for path in found)
    for component in sorted(components):
        own = [path for path in safe if _top(path) == component]
        if _any(own, WEIGHTS | PICKLES):
            chosen += _of_component(component, own, wish.variant, varied)
    return chosen or _refuse(safe, "the repository")


def _of_component(name: str, own: list[PurePosixPath], variant: str | None, varied: bool) -> list[PurePosixPath]:
    """A component's weights; where only others have the wished variant (`varied`), those that name none."""
    found = [path for path in own if path.suffix in WEIGHTS]
    if not found:
        _refuse(own, name)
    if chosen := _of_variant(found, variant) or (_of_variant(found, None) if varied else []):
        return chosen
    variants = sorted({_variant(path) or "" for path in found} - {""})
    raise StoreError(
        f"{name} has no weights of variant {variant}; leave --variant out"
        if variant
        else f"{name} has weights of variant {', '.join(variants)} only; say --variant {variants[0]}"
    )


def _of_variant(found: list[PurePosixPath], variant: str | None) -> list[PurePosixPath]:
    return [path for path in found if _variant(path) == variant]


def _named(found: list[PurePosixPath], names: tuple[str, ...]) -> list[PurePosixPath]:
    known = {str(path): path for path in found}
    for name in names:
        if name not in known:
            raise StoreError(f"there is no safetensors file {name!r}; there are: {_some(known)}")
    return [known[name] for name in names]


def _refuse(paths: list[PurePosixPath], what: str) -> list[PurePosixPath]:
    pickles = [str(path) for path in paths if path.suffix in PICKLES]
    if pickles:
        raise StoreError(
            f"{what}: its weights are pickles ({_some(pickles)}), which can run code; only safetensors are stored"
        )
    weights = [str(path) for path in paths if path.suffix in WEIGHTS]
    if weights:
        raise StoreError(f"{what} has no weights of that variant; there are {_some(weights)}: see --variant and --file")
    raise StoreError(f"{what} has no safetensors weights")


def _variant(path: PurePosixPath) -> str | None:
    """`fp16` of `model.fp16.safetensors`, of its shards, and of the index of these."""
    stem = path.name
    for ending in (".json", ".safetensors"):
        stem = stem.removesuffix(ending)
    words = [word for word in _SHARD.sub("", stem).split(".")[1:] if word not in ("index", "safetensors")]
    return words[-1] if words and words[-1].isidentifier() else None


def _is_index(path: PurePosixPath) -> bool:
    """The list of a weight's shards."""
    return ".index." in path.name


def _hidden(path: PurePosixPath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _top(path: PurePosixPath) -> str:
    return path.parts[0] if len(path.parts) > 1 else ""


def _takes_checker(safe: list[PurePosixPath], wish: Wish) -> bool:
    """A checker that is a pickle stays away: a model does without."""
    return wish.safety_checker and _any([path for path in safe if _top(path) == SAFETY_CHECKER], WEIGHTS)


def _any(paths: list[PurePosixPath], suffixes: frozenset[str]) -> bool:
    return any(path.suffix in suffixes for path in paths)


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:_NAMED]) + (f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else "")
