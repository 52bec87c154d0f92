"""LoRAs in a model's memory: loaded once, switched for each job, dropped when memory for them is short."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
import torch

from reelnet.errors import NodeError, UnsupportedError, UserError
from reelnet.pipelines import did_you_mean
from runner.models.digest import sha256_of
from runner.models.lora_files import LoraFile
from runner.models.lora_layers import MisfitError, load_layers

log = structlog.get_logger()
_MISFITS = (RuntimeError, ValueError, KeyError, AttributeError, TypeError, IndexError)
"""What diffusers and peft raise for weights whose names or shapes are not the model's."""


class LoraShelf:
    """The LoRAs of one model. `pipe` is any of its pipelines: they share the nets that LoRAs are put into.

    Loaded LoRAs stay until together they hold more than `limit_bytes`; then the one unused for longest is dropped.
    """

    def __init__(self, pipe: Any, files: Iterable[LoraFile], limit_bytes: int) -> None:
        self._pipe = pipe
        self._files = {file.id: file for file in files}
        self._adapters = {name: f"lora_{number}" for number, name in enumerate(self._files)}
        self._limit_bytes = limit_bytes
        self._loaded: OrderedDict[str, int] = OrderedDict()
        self._active: Mapping[str, float] | None = {}  # None: not known

    @property
    def digests(self) -> Mapping[str, str]:
        """id → sha256 of the file, hex."""
        return {file.id: file.sha256 for file in self._files.values()}

    @property
    def loaded_bytes(self) -> Mapping[str, int]:
        """The LoRAs in memory, the one unused for longest first, with the bytes that each holds."""
        return dict(self._loaded)

    def apply(self, asked: Mapping[str, float]) -> None:
        """Makes the nets draw with these LoRAs, id → strength, and no others; one of strength 0 need not be there.

        They are applied in the operator's order, so that one job has one result. Raises UnsupportedError for one
        that is not served, UserError for one that does not fit the model, NodeError for a file that has changed.
        """
        for name in (name for name, strength in asked.items() if strength):
            self._check_known(name)
        wanted = [name for name in self._files if asked.get(name, 0.0) != 0.0]
        for name in wanted:
            self._load(name, keep=wanted)
        self._switch({self._adapters[name]: asked[name] for name in wanted})

    def _check_known(self, name: str) -> None:
        if name not in self._files:
            hint = did_you_mean(name, self._files)
            raise UnsupportedError(f"loras: this node does not serve {name!r}{hint}", code="lora", loc=("loras", name))

    def _switch(self, strengths: Mapping[str, float]) -> None:
        if strengths == self._active:
            return
        self._active = None
        if strengths:
            self._pipe.enable_lora()
            self._pipe.set_adapters(list(strengths), list(strengths.values()))
        else:
            self._pipe.disable_lora()
        self._active = dict(strengths)

    def _load(self, name: str, keep: list[str]) -> None:
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return
        file = self._files[name]
        _check_unchanged(file)
        self._make_room(file.path.stat().st_size, keep)
        self._active = None  # a LoRA that is loaded is switched on by that
        try:
            self._read(file)
        except torch.OutOfMemoryError:
            self._pipe.delete_adapters(self._adapters[name])
            raise
        except _MISFITS as error:
            self._pipe.delete_adapters(self._adapters[name])
            log.warning("a LoRA does not fit the model", lora=name, error=type(error).__name__)
            reason = str(error) if isinstance(error, MisfitError) else f"cannot be put into the model: {_short(error)}"
            raise UserError(f"loras: {name!r} {reason}", code="lora_misfit", loc=("loras", name)) from None
        self._loaded[name] = self._held_bytes(name)

    def _read(self, file: LoraFile) -> None:
        """Puts the LoRA into the nets. Raises MisfitError when a part of it is not the model's."""
        for options in self._goals(file):
            load_layers(self._pipe, file.path, self._adapters[file.id], options)

    def _goals(self, file: LoraFile) -> list[dict[str, bool]]:
        """What diffusers has to be told for each net that it does not find by itself: a Wan model may have two."""
        if getattr(self._pipe, "transformer_2", None) is None:
            return [{}]
        goals = {"transformer": {}, "transformer_2": {"load_into_transformer_2": True}}
        return [options for net, options in goals.items() if file.net in (None, net)]

    def _make_room(self, size_bytes: int, keep: list[str]) -> None:
        """Drops what was unused for longest, until `size_bytes` more are within the limit. Raises UnsupportedError."""
        for name in [name for name in self._loaded if name not in keep]:
            if sum(self._loaded.values()) + size_bytes <= self._limit_bytes:
                return
            self._active = None
            self._pipe.delete_adapters(self._adapters[name])
            del self._loaded[name]
        if sum(self._loaded.values()) + size_bytes > self._limit_bytes:
            raise UnsupportedError(
                f"loras: together they need more than this node's {self._limit_bytes} bytes; use fewer",
                code="lora_bytes",
                loc=("loras",),
            )

    def _held_bytes(self, name: str) -> int:
        return sum(weights.nbytes for _, weights in self._weights(name))

    def _weights(self, name: str) -> list[tuple[str, Any]]:
        """The LoRA's tensors in the nets, with their names."""
        mark = f".{self._adapters[name]}."
        nets = (getattr(self._pipe, part, None) for part in self._pipe._lora_loadable_modules)
        return [row for net in nets if net is not None for row in net.named_parameters() if mark in row[0]]


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _check_unchanged(file: LoraFile) -> None:
    """Raises NodeError when the file is not the one whose digest the runner tells."""
    if not file.path.is_file() or sha256_of(file.path) != file.sha256:
        raise NodeError(f"loras: the file of {file.id!r} has changed; restart the runner", code="lora_changed")
