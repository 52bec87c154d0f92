"""A model from a hub to the folder of models, in one step that a broken connection or a kill only delays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.filesize import decimal

from runner.models.checks import GIB, check_licence, check_model, free_bytes
from runner.models.choice import Wish, choose
from runner.models.digest import INDEX, component_names, read_json
from runner.models.download import Downloads, Patience, check_stated
from runner.models.hub import Hub, InterruptedTransferError, RemoteModel
from runner.models.manifest import Manifest, write_manifest
from runner.models.meter import Meter
from runner.models.store import ModelStore, StoreError


@dataclass(frozen=True, slots=True)
class Order:
    """What to pull. `replace`: also over a folder that was not pulled from there. `reserve_bytes` stay free."""

    model: str
    revision: str = "main"
    wish: Wish = field(default_factory=Wish)
    accept_licence: bool = False
    replace: bool = False
    reserve_bytes: int = GIB


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that is there. `fresh` is false when there was nothing to do."""

    folder: Path
    manifest: Manifest
    fresh: bool


class Pull:
    """Pulls models from one hub into one store."""

    def __init__(
        self,
        hub: Hub,
        store: ModelStore,
        meter: Meter,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._hub = hub
        self._store = store
        self._meter = meter
        self._patience = patience
        self._free = free

    def run(self, order: Order) -> Pulled:
        """The model of an order, complete and checked.

        Raises ConfigError for a licence that was not accepted or a wrong name, StoreError for what the hub or the disk
        does not have, SetupError for weights that are damaged although their digest is right, OSError.
        """
        remote = self._look_up(order)
        if found := self._already(order, remote):
            return found
        check_licence(order.model, remote.licence, order.accept_licence)
        with self._store.draft(order.model, remote.commit[:12]) as draft:
            downloads = Downloads(self._hub, remote, draft, self._meter, self._patience)
            names = self._choose(order, remote, draft, downloads)
            manifest = self._fetch(order, remote, names, downloads)
            _tidy(draft, names)
            check_model(draft)
            write_manifest(draft, manifest)
            return Pulled(self._store.install(draft, self._store.folder(order.model)), manifest, fresh=True)

    def _look_up(self, order: Order) -> RemoteModel:
        tries = 0
        while True:
            try:
                return self._hub.model(order.model, order.revision)
            except InterruptedTransferError as error:
                tries += 1
                if tries > self._patience.retries:
                    raise StoreError(f"{error}; is {self._hub.endpoint} the right address, and reachable?") from None
                self._patience.sleep(min(error.retry_after_s or 2.0 ** (tries - 1), 60.0))

    def _already(self, order: Order, remote: RemoteModel) -> Pulled | None:
        """What the store has of that commit; None when it has to be pulled. Raises StoreError for a foreign folder."""
        if not self._store.has(order.model):
            return None
        found = self._store.get(order.model)
        source = dict(found.manifest.source) if found.manifest else {}
        if found.manifest and source == _source(self._hub, remote, order):
            return Pulled(found.folder, found.manifest, fresh=False)
        if not order.replace and source.get("kind") != "hub":
            raise StoreError(f"{found.folder}: is there, but was not pulled; say --replace to replace it")
        return None

    def _choose(self, order: Order, remote: RemoteModel, draft: Path, downloads: Downloads) -> list[str]:
        """The files to fetch; model_index.json is needed to know, so it is the first."""
        if INDEX not in remote.files:
            return choose(remote.files, None, order.wish)
        check_stated(remote.files[INDEX])
        downloads.fetch(remote.files[INDEX])
        return choose(remote.files, component_names(read_json(draft / INDEX)), order.wish)

    def _fetch(self, order: Order, remote: RemoteModel, names: list[str], downloads: Downloads) -> Manifest:
        files = [remote.files[name] for name in names]
        for file in files:
            check_stated(file)
        self._check_space(sum(file.size - downloads.there(file) for file in files), order.reserve_bytes)
        self._meter.expect(sum(file.size for file in files))
        facts = {file.path: downloads.fetch(file) for file in files}
        return Manifest(order.model, remote.licence, facts, _source(self._hub, remote, order), order.accept_licence)

    def _check_space(self, missing: int, reserve: int) -> None:
        free = self._free(self._store.home)
        if missing + reserve > free:
            raise StoreError(
                f"{self._store.home}: {decimal(missing)} are to come, {decimal(free)} are free and {decimal(reserve)} "
                "are to stay free; remove a model, or set REELNET_MODELS or --reserve"
            )


def _source(hub: Hub, remote: RemoteModel, order: Order) -> dict[str, str]:
    wish = order.wish
    source = {"kind": "hub", "endpoint": hub.endpoint, "revision": remote.commit}
    if wish.variant:
        source["variant"] = wish.variant
    if wish.weights:
        source["weights"] = " ".join(wish.weights)
    if not wish.safety_checker:
        source["safety_checker"] = "left out"
    return source


def _tidy(draft: Path, names: list[str]) -> None:
    """Removes what an earlier try with other wishes has left."""
    for path in draft.rglob("*"):
        if path.is_file() and path.relative_to(draft).as_posix() not in names:
            path.unlink()
