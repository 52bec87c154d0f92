"""The tensors of a TorchScript file, read without running anything that is in it.

Such a file is a zip: `data.pkl` is a pickle of the module tree, `data/N` are the bytes of its tensors, `code/` is the
program. torch.jit.load compiles that program; here it is never looked at, and of the pickle only these are made:
dictionaries, numbers, text, our own inert nodes for the modules, and notes of where a tensor's bytes are.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from runner.backend import SetupError

PICKLE_BYTES = 16 * 2**20
"""Most bytes of `data.pkl`; that of a network with 82 tensors has some 30,000."""
DEPTH = 32
"""Most modules inside each other."""
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_ERRORS = (zipfile.BadZipFile, pickle.UnpicklingError, OSError, EOFError, RuntimeError, NotImplementedError)
_MALFORMED = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)


def read_tensors(path: Path, max_bytes: int) -> dict[str, torch.Tensor]:
    """All tensors of the module in `path`, by their dotted names, on the CPU.

    Raises SetupError when it is no TorchScript file, is damaged, holds anything but modules and tensors, or when its
    tensors take more than `max_bytes`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive, max_bytes).tensors()
    except (*_ERRORS, *_MALFORMED) as error:
        reason = " ".join(str(error).split())[:200]
        raise SetupError(f"{path}: not a TorchScript file that can be read, or damaged: {reason}") from None


class _Node:
    """A module, or a value of a class that does not matter: only what is in it is kept."""

    content: Mapping[str, Any] = MappingProxyType({})

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.content = {str(name): value for name, value in state.items()}


@dataclass(frozen=True)
class _Storage:
    kind: str
    key: str


@dataclass(frozen=True)
class _Stored:
    """Where a tensor's elements are: offset, shape and strides in elements."""

    storage: object
    offset: object
    shape: object
    stride: object


class _Kind(str):
    """The name of a storage class."""

    __slots__ = ()


def _listed(*items: Any) -> list[Any]:
    return list(items[0]) if items else []


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, shape, stride, *_: _Stored(
        storage, offset, shape, stride
    ),
    ("torch._utils", "_rebuild_parameter"): lambda stored, *_: stored,
    **{("torch.jit._pickle", f"build_{kind}list"): _listed for kind in ("int", "double", "bool", "tensor")},
}


class _Reader(pickle.Unpickler):
    """Makes nothing but what `_KNOWN` has, and nodes for the file's own classes."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and name in _DTYPES:
            return _Kind(name)
        if module.split(".", 1)[0] == "__torch__":
            return _Node
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither a module nor a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, _ = pid
        if not isinstance(kind, _Kind):
            raise pickle.UnpicklingError("a tensor without a known kind of number")
        return _Storage(str(kind), str(key))


class _Archive:
    """An open TorchScript zip."""

    def __init__(self, archive: zipfile.ZipFile, max_bytes: int) -> None:
        self._archive = archive
        self._left = max_bytes
        self._root = _root(archive)
        self._read: dict[_Storage, torch.Tensor] = {}

    def tensors(self) -> dict[str, torch.Tensor]:
        tree = _Reader(io.BytesIO(self._entry("data.pkl", PICKLE_BYTES))).load()
        return {name: self._tensor(stored) for name, stored in _walk(tree, (), DEPTH)}

    def _tensor(self, stored: _Stored) -> torch.Tensor:
        storage, offset, shape, stride = stored.storage, stored.offset, _sizes(stored.shape), _sizes(stored.stride)
        if not isinstance(storage, _Storage) or not isinstance(offset, int) or len(shape) != len(stride):
            raise ValueError("a tensor without storage or shape")
        flat = self._flat(storage)
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if offset < 0 or math.prod(shape) > flat.numel() or (math.prod(shape) and last >= flat.numel()):
            raise ValueError("a tensor that reaches beyond its storage")
        return flat.as_strided(shape, stride, offset).clone(memory_format=torch.contiguous_format)

    def _flat(self, storage: _Storage) -> torch.Tensor:
        if storage not in self._read:
            data = bytearray(self._entry(f"data/{storage.key}", self._left))
            self._left -= len(data)
            self._read[storage] = torch.frombuffer(data, dtype=_DTYPES[storage.kind]) if data else torch.empty(0)
        return self._read[storage]

    def _entry(self, name: str, most: int) -> bytes:
        info = self._archive.getinfo(f"{self._root}/{name}")
        if info.file_size > most:
            raise ValueError(f"{name} has {info.file_size} bytes, at most {most} were expected")
        with self._archive.open(info) as entry:
            data = entry.read(most + 1)
        if len(data) != info.file_size:
            raise ValueError(f"{name} is not as long as the file says")
        return data


def _root(archive: zipfile.ZipFile) -> str:
    """The one folder that everything in the zip is in."""
    found = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.count("/") == 1]
    for root in found:
        if f"{root}/data.pkl" in archive.namelist() and f"{root}/constants.pkl" in archive.namelist():
            return root
    raise ValueError("it has no data.pkl beside a constants.pkl, as TorchScript has")


def _walk(node: object, path: tuple[str, ...], depth: int) -> Iterator[tuple[str, _Stored]]:
    """All tensors below a module, with their dotted names."""
    if isinstance(node, _Stored):
        yield ".".join(path), node
    elif isinstance(node, _Node):
        if depth == 0:
            raise ValueError("its modules are nested too deeply")
        for name, value in node.content.items():
            yield from _walk(value, (*path, name), depth - 1)


def _sizes(value: object) -> tuple[int, ...]:
    if isinstance(value, tuple | list) and all(isinstance(size, int) and size >= 0 for size in value):
        return tuple(value)
    raise ValueError("a tensor's shape is not a list of sizes")
