"""From a local folder in diffusers layout to a model that is ready on its device."""

from __future__ import annotations

import gc
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version

import torch

from reelnet.jobs import Licence
from reelnet.parameters import INTERPOLATION
from runner.backend import ModelInfo, Rendered, Reporter, RunnerJob, Served, SetupError
from runner.models.device_memory import DeviceMemory
from runner.models.digest import ModelFiles, survey
from runner.models.estimate import Estimate, estimate_of
from runner.models.families import read_family
from runner.models.guard import MemoryGuard
from runner.models.libraries import library_versions, quiet_libraries
from runner.models.memory import keep_kernels
from runner.pipelines.family import Family
from runner.settings import RunnerSettings

_WIDE_NUMBERS = ("StableDiffusion3", "Flux", "QwenImage", "Sana", "Wan", "ZImage")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory."""

    info: ModelInfo
    family: Family
    device: torch.device
    memory: DeviceMemory
    guard: MemoryGuard
    estimate: Estimate | None

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """As Backend.run. Raises OutOfMemoryError before anything else for a job that will not fit."""
        with self.guard.watching(job):
            yield from self.family.render(job, report)

    def recover(self) -> None:
        """Frees the allocator's cache and adds two numbers on the device. Raises what a lost device raises."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if torch.ones(1, device=self.device).add(1).item() != 2:
            raise RuntimeError("1 + 1 is not 2")

    def memory_bytes(self) -> int:
        """As Backend.memory_bytes."""
        return self.memory.most_bytes()


def load(files: ModelFiles, settings: RunnerSettings) -> LoadedModel:
    """The model in these files, on the device that the settings name. Raises SetupError with what to do about it."""
    quiet_libraries()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    keep_kernels(settings)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device, files.class_name)
    family = read_family(files, settings, device, dtype)
    dtype = getattr(family, "dtype", dtype)  # an upscaler's own, where it cannot have the asked one
    served = _wanted(family.served, settings.pipelines, files)
    (estimate, memory), gauge = estimate_of(family, settings.offload), DeviceMemory(device)
    info = replace(
        _describe(settings, files, served, device, dtype),
        loras=family.loras,
        interpolation=_interpolation(settings, served),
        memory=memory,
    )
    return LoadedModel(info, family, device, gauge, MemoryGuard(estimate, gauge, settings), estimate)


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU if there is one. Raises SetupError."""
    cuda = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SetupError(f"device: torch knows no {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not cuda:
        raise SetupError(f"device: {name} was asked for, but torch finds no GPU here")
    return device


def choose_dtype(name: str, device: torch.device, class_name: str) -> torch.dtype:
    """The number format of that name; `auto` is float32 on a CPU, and on a GPU what the class was trained for.

    The numbers of SD 3, FLUX, Wan and their like leave float16's range: their pictures would be black.
    """
    on_gpu = torch.bfloat16 if class_name.startswith(_WIDE_NUMBERS) else torch.float16
    auto = on_gpu if device.type == "cuda" else torch.float32
    return {"auto": auto, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def _wanted(served: tuple[Served, ...], names: tuple[str, ...], files: ModelFiles) -> tuple[Served, ...]:
    known = {row.pipeline: row for row in served}
    missing = [name for name in names if name not in known]
    if missing:
        raise SetupError(
            f"{files.folder}: a {files.class_name} does not serve {missing[0]}; it serves {', '.join(known)}"
        )
    return tuple(known[name] for name in names) or served


def _interpolation(settings: RunnerSettings, served: tuple[Served, ...]) -> str:
    """The digest of the network behind the feature, empty where no pipeline has it."""
    folder = settings.interpolation_folder
    if folder is None or not any(INTERPOLATION in row.features for row in served):
        return ""
    return survey(folder).digest()


def _describe(
    settings: RunnerSettings, files: ModelFiles, served: tuple[Served, ...], device: torch.device, dtype: torch.dtype
) -> ModelInfo:
    info = ModelInfo(
        model=settings.advertised_id,
        digest=files.digest(),
        variant=str(dtype).removeprefix("torch."),
        served=served,
        licence=Licence(settings.licence.id, settings.licence.commercial) if settings.licence else files.licence,
        versions={"python": platform.python_version(), "runner": version("reelnet")} | library_versions(),
    )
    if device.type != "cuda":
        return info
    card = torch.cuda.get_device_properties(device)
    return replace(info, device=card.name, vram_bytes=card.total_memory)
