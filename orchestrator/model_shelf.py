"""The models as they lie on disk, and what is known of them: asked often, so kept from one look to the next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from orchestrator.model_facts import FactBook, ModelFacts, load_estimate_s, source_of, weights_bytes
from orchestrator.runner_answers import AnswerError, RunnerInfo, described_bytes
from orchestrator.settings import ModelSettings

DESCRIBED_BYTES = 768 * 1024
"""Most bytes of a description for what runners say of all models: its message has 1 MiB."""
FolderOf = Callable[[ModelSettings], Path | None]
FaultOf = Callable[[ModelSettings], str]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Item:
    """One model on disk: its settings, what its facts were learned from, and the size of its weights."""

    model: ModelSettings
    source: str
    weights_bytes: int


class ModelShelf:
    """Facts about the configured models. `folder_of` finds their weights, `fault_of` says what is wrong with them."""

    def __init__(self, book: FactBook, folder_of: FolderOf, fault_of: FaultOf = lambda model: "") -> None:
        self._book = book
        self._folder_of = folder_of
        self._fault_of = fault_of
        self._faults: dict[str, str] = {}
        self._items: dict[str, _Item] = {}
        self._saving: asyncio.Task[None] | None = None
        self._unsaved = False

    def fault(self, model: ModelSettings) -> str:
        """What keeps the model from being loaded, as its folder was at the last look; empty when nothing does."""
        return self._faults.get(model.model_id, "")

    async def look(self, models: Iterable[ModelSettings]) -> None:
        """Looks at the folders of these models, beside the loop's work."""
        found = await asyncio.to_thread(lambda: {model.model_id: self._fault_of(model) for model in models})
        for name, fault in found.items():
            before, self._faults[name] = self._faults.get(name, ""), fault
            if fault == before:
                continue
            if fault:
                log.warning("a model cannot be served", model=name, reason=fault)
            else:
                self._items.pop(name, None)
                log.info("a model can be served now", model=name)

    def facts(self, model: ModelSettings) -> ModelFacts:
        """What is known of a model."""
        return self._book.of(model.model_id, self._item(model).source)

    def knows(self, model: ModelSettings) -> bool:
        """Whether the model was loaded before, so that it can be offered without being there."""
        return self.facts(model).info is not None

    def weights_bytes(self, model: ModelSettings) -> int:
        """Size of its weight files."""
        return self._item(model).weights_bytes

    def load_s(self, model: ModelSettings) -> float:
        """How long a load takes, as estimated."""
        return load_estimate_s(self.facts(model), self.weights_bytes(model))

    def ready(self, model: ModelSettings, info: RunnerInfo) -> None:
        """A runner has loaded it. Raises AnswerError when the node's description has no room for what it says."""
        others = (known.info for known in map(self.facts, self._others(model)) if known.info)
        if sum(map(described_bytes, (info, *others))) > DESCRIBED_BYTES:
            raise AnswerError(f"/info: with the node's other models it is over {DESCRIBED_BYTES} bytes to describe")
        self._book.learn_info(model.model_id, self._item(model).source, info)
        self._save()

    def measured(self, model: ModelSettings, size: int) -> None:
        """Its runner takes that much memory, bytes."""
        if size > (self.facts(model).need_bytes or 0):
            self._book.learn_need(model.model_id, self._item(model).source, size)
            self._save()

    def loaded(self, model: ModelSettings, seconds: float) -> None:
        """A load took so long."""
        self._book.learn_load(model.model_id, self._item(model).source, seconds)
        self._save()

    def _others(self, model: ModelSettings) -> list[ModelSettings]:
        return [item.model for name, item in self._items.items() if name != model.model_id]

    def _item(self, model: ModelSettings) -> _Item:
        item = self._items.get(model.model_id)
        if item is None or item.model is not model:
            folder = self._folder_of(model)
            item = self._items[model.model_id] = _Item(model, source_of(model, folder), weights_bytes(folder))
        return item

    def _save(self) -> None:
        """Writes the book beside the loop's work, once at a time; what a stop cuts off is learned again."""
        self._unsaved = True
        if self._saving is None or self._saving.done():
            self._saving = asyncio.get_running_loop().create_task(self._write(), name="model facts")

    async def _write(self) -> None:
        while self._unsaved:
            self._unsaved = False
            await asyncio.to_thread(self._book.write, self._book.text())
