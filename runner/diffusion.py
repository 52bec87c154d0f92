"""The backend that runs diffusers models. It imports no model library itself: that happens on the model thread."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Protocol, cast

from reelnet.errors import NodeError
from runner.backend import ModelInfo, Rendered, Reporter, RunnerJob, SetupError
from runner.models.digest import ModelFiles, survey
from runner.settings import RunnerSettings


class LoadedModel(Protocol):
    """A diffusers model in memory, as `runner.models.loading.load` gives it."""

    @property
    def info(self) -> ModelInfo: ...

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """As Backend.run."""

    def recover(self) -> None:
        """As Backend.recover."""

    def memory_bytes(self) -> int:
        """As Backend.memory_bytes."""


class Loading(Protocol):
    """The module `runner.models.loading`."""

    def load(self, files: ModelFiles, settings: RunnerSettings) -> LoadedModel:
        """Reads the model. Raises SetupError."""


class DiffusersBackend:
    """Serves one local model folder in diffusers layout."""

    def __init__(self, settings: RunnerSettings) -> None:
        self._settings = settings
        self._model: LoadedModel | None = None

    def load(self) -> ModelInfo:
        """Looks at the folder, imports torch and diffusers (seconds), then reads the weights. Raises SetupError."""
        files = survey(self._settings.folder)
        try:
            loading = cast("Loading", importlib.import_module("runner.models.loading"))
        except ModuleNotFoundError as error:
            raise SetupError(f"{error.name} is not installed; install the extra: reelnet[diffusers]") from None
        self._model = loading.load(files, self._settings)
        return self._model.info

    def run(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """Renders the job. Raises UnsupportedError for what the model does not take."""
        return self._loaded().render(job, report)

    def recover(self) -> None:
        """Frees the device's caches and lets it compute a little. Raises what the device raises."""
        self._loaded().recover()

    def memory_bytes(self) -> int:
        """What the device, or on a CPU the process, has held at most; 0 before the model is loaded."""
        return self._model.memory_bytes() if self._model else 0

    def close(self) -> None:
        """Lets the model go; a job that still runs keeps it until its next step."""
        self._model = None

    def _loaded(self) -> LoadedModel:
        if self._model is None:
            raise NodeError("the backend was closed", code="closed")
        return self._model
