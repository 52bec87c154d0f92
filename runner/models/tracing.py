"""The most memory that a call's tensors hold at one moment, found by running it on tensors that have shapes alone."""

from __future__ import annotations

import functools
import itertools
import operator
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import structlog
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runner.memory_budget import Table

log = structlog.get_logger()
META = torch.device("meta")
_BOUND_TENSORS = 4
"""Tensors of a net's largest width that are thought to live at one moment, where a net cannot be traced."""
REFUSALS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError)
"""What nets raise for a size that they do not take, or that they cannot be run on without numbers."""


@dataclass(frozen=True, slots=True)
class Part:
    """One call of a net whose memory is of interest.

    call: makes its inputs on META and calls the net, with one size for each of `axes`; an axis has the sizes to trace.
    positions: how many places of the net's finest level there are for a size of 1: what it is bounded by if it cannot
    be traced.
    """

    net: str
    call: Callable[..., object]
    axes: tuple[tuple[int, ...], ...] = ()
    positions: float = 1.0


class LiveBytes:
    """Counts, while it is entered, the bytes of tensors that are made and not yet dropped: `now`, and `peak`.

    Tensors from before, weights above all, do not count. What a kernel takes for itself is not seen.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._mode: Any = _Watch(self)
        self._known: dict[int, weakref.ref[Any]] = {}

    def __enter__(self) -> Self:
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)

    def see(self, values: Any, *, made: bool) -> None:
        """Takes note of the storages of all tensors in `values`; those that were `made` count."""
        for value in tree_leaves(values):
            if isinstance(value, torch.Tensor) and value.layout is torch.strided:
                self._see(value.untyped_storage(), made)

    def _see(self, storage: Any, made: bool) -> None:
        key, size = storage._cdata, storage.nbytes() if made else 0
        if key in self._known:
            return
        self._known[key] = weakref.ref(storage, lambda _: self._drop(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        del self._known[key]
        self.now -= size


class _Watch(TorchDispatchMode):  # type: ignore[misc]
    """Sees every operation with what goes in and comes out."""

    def __init__(self, live: LiveBytes) -> None:
        super().__init__()
        self._live = live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._live.see((args, kwargs), made=False)
        if _decomposes(func):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = _outlined(func, args, kwargs)
        self._live.see(result, made=True)
        return result


@functools.cache
def _decomposes(func: Any) -> bool:
    return bool(func._can_decompose())


_OUTLINES: dict[Any, tuple[Any, ...] | None] = {}
"""What operations on META make, by the operation and all that its outputs' shapes follow from; None: they may be views.

Most of torch's rules for shapes are Python, and nets repeat their layers: without this a trace takes far longer.
"""


def _outlined(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of an operation; on META made without asking torch for its shape, where it has been asked before."""
    try:
        key = (func, _key(args), _key(kwargs))
        known = _OUTLINES.get(key)
    except TypeError:
        return func(*args, **kwargs)
    if known:
        form, outlines = known
        return form([torch.empty_strided(shape, by, dtype=dtype, device=META) for shape, by, dtype in outlines])
    result = _called(func, args, kwargs)
    if key not in _OUTLINES:
        _OUTLINES[key] = _outlines(func, args, kwargs, result)
    return result


def _called(func: Any, args: Any, kwargs: Any) -> Any:
    if func is torch.ops.aten.grid_sampler_2d.default and args[0].device == META:  # torch takes 50 ms for its shape
        picture, grid = args[:2]
        return picture.new_empty((*picture.shape[:2], *grid.shape[1:3]))
    return func(*args, **kwargs)


def _key(value: Any) -> Any:
    """Whatever a shape may follow from. Raises TypeError for what has none."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    if isinstance(value, dict):
        return tuple((name, _key(each)) for name, each in value.items())
    hash(value)
    return type(value), value


def _outlines(func: Any, args: Any, kwargs: Any, result: Any) -> tuple[Any, ...] | None:
    """How to make the result again; None where it may share the memory of what went in, or is not on META."""
    tensors = [result] if isinstance(result, torch.Tensor) else result
    if not isinstance(tensors, tuple | list) or func._schema.is_mutable:
        return None
    given = {value.untyped_storage()._cdata for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
    for made in tensors:
        if not isinstance(made, torch.Tensor) or made.device != META or made.untyped_storage()._cdata in given:
            return None
    form = operator.itemgetter(0) if isinstance(result, torch.Tensor) else type(result)
    return form, [(made.shape, made.stride(), made.dtype) for made in tensors]


class _FusedAttention(TorchFunctionMode):  # type: ignore[misc]
    """Attention as the fused kernels have it: its scores never lie in memory as a whole."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return _attention_shapes(*args, **(kwargs or {}))


def _attention_shapes(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
    result = query.new_empty((*query.shape[:-1], value.shape[-1]))
    sums = query.new_empty(query.shape[:-1], dtype=torch.float32)  # the kernels keep them beside the result
    del sums
    return result


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that the tensors of a call hold at one moment. All of its tensors and nets have to be on META."""
    live = LiveBytes()
    with torch.no_grad(), _FusedAttention(), META, live:
        call()
    return live.peak


def trace(name: str, part: Part, net: Any) -> Table:
    """What `part` takes, over its axes. A size that the net refuses is left out; where all are, it is a bound."""
    table = _traced(part, part.axes, ())
    if table is None:
        log.warning("memory is bounded and not traced", part=name, net=type(net).__name__)
        return _bounded(part, part.axes, _widest_bytes(net), 1)
    return table


def _traced(part: Part, axes: tuple[tuple[int, ...], ...], sizes: tuple[int, ...]) -> Table | None:
    if not axes:
        found = _peak(part, sizes)
        return None if found is None else Table.constant(found)
    rows: dict[int, int | Table] = {}
    for size in axes[0]:
        row = _traced(part, axes[1:], (*sizes, size)) if len(axes) > 1 else _peak(part, (*sizes, size))
        if row is not None:
            rows[size] = row
    return Table(tuple(rows), tuple(rows.values())) if len(rows) > 1 else None


def _peak(part: Part, sizes: tuple[int, ...]) -> int | None:
    try:
        return peak_bytes(lambda: part.call(*sizes))
    except REFUSALS as error:
        log.debug("a size cannot be traced", net=part.net, sizes=sizes, error=type(error).__name__)
        return None


def _bounded(part: Part, axes: tuple[tuple[int, ...], ...], each_bytes: int, factor: int) -> Table:
    """In proportion to the product of all sizes."""
    most = _BOUND_TENSORS * part.positions * each_bytes * factor
    if not axes:
        return Table.constant(round(most))
    if len(axes) == 1:
        return Table((0, axes[0][-1]), (0, round(most * axes[0][-1])))
    return Table(axes[0], tuple(_bounded(part, axes[1:], each_bytes, factor * size) for size in axes[0]))


def _widest_bytes(net: Any) -> int:
    """Bytes of one position at the largest width that a layer of the net gives."""
    wide = (int(weights.shape[0]) * int(weights.element_size()) for weights in net.parameters() if weights.dim() > 1)
    return max(itertools.chain(wide, (1,)))
