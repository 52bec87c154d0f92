"""From a local folder in diffusers layout to a model that is ready on its device."""

from __future__ import annotations

import gc
import platform
import resource
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING
from safetensors import SafetensorError

from reelnet.jobs import Licence
from runner.backend import ModelInfo, Rendered, Reporter, RunnerJob, Served, SetupError
from runner.models import film_folder
from runner.models.digest import ModelFiles
from runner.pipelines.family import Family
from runner.pipelines.frame_interpolation import Interpolation
from runner.pipelines.stable_diffusion import StableDiffusion
from runner.pipelines.stable_video import StableVideo
from runner.settings import RunnerSettings
from runner.video_writer import ClipOutput

VIDEO_CLASS = "StableVideoDiffusionPipeline"
_LOAD_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, SafetensorError)
"""What diffusers and transformers raise for a folder that is not as they expect."""


CUDA_CONTEXT_BYTES = 600 * 2**20
"""What CUDA itself holds for a process, which the allocator does not count; some 300-600 MiB with torch's kernels."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory."""

    info: ModelInfo
    family: Family
    device: torch.device

    def render(self, job: RunnerJob, report: Reporter) -> Iterator[Rendered]:
        """As Backend.run."""
        return self.family.render(job, report)

    def recover(self) -> None:
        """Frees the allocator's cache and adds two numbers on the device. Raises what a lost device raises."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if torch.ones(1, device=self.device).add(1).item() != 2:
            raise RuntimeError("1 + 1 is not 2")

    def memory_bytes(self) -> int:
        """The allocator's peak and the CUDA context; on a CPU the process's largest resident set."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_reserved(self.device)) + CUDA_CONTEXT_BYTES
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load(files: ModelFiles, settings: RunnerSettings) -> LoadedModel:
    """The model in these files, on the device that the settings name. Raises SetupError with what to do about it."""
    quiet_libraries()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    family = _family(files, device, dtype, ClipOutput(settings.crf, settings.clip_window))
    served = _wanted(family.served, settings.pipelines, files)
    return LoadedModel(_describe(settings, files, served, device, dtype), family, device)


def quiet_libraries() -> None:
    """No progress bars and no advice on a node's log."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


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


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of that name; `auto` is float16 on a GPU and float32 on a CPU."""
    auto = torch.float16 if device.type == "cuda" else torch.float32
    return {"auto": auto, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]


def _family(files: ModelFiles, device: torch.device, dtype: torch.dtype, output: ClipOutput) -> Family:
    if files.class_name == film_folder.CLASS:
        return Interpolation(film_folder.load_film(files.folder, device, dtype), output)
    if files.class_name == VIDEO_CLASS:
        return StableVideo(_read(diffusers.StableVideoDiffusionPipeline, files, device, dtype))
    if files.class_name in {known.__name__ for known in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()}:
        return StableDiffusion(_read(diffusers.AutoPipelineForText2Image, files, device, dtype))
    raise SetupError(f"{files.folder}: no pipeline here serves a {files.class_name or 'model without a class'}")


def _read(kind: Any, files: ModelFiles, device: torch.device, dtype: torch.dtype) -> Any:
    """The diffusers pipeline, from this folder alone: no network, no pickles, no safety checker."""
    try:
        pipe = kind.from_pretrained(
            files.folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            variant=_variant(files),
            **_without_checker(files),
        ).to(device)
    except torch.OutOfMemoryError:
        raise SetupError(f"{files.folder}: the model does not fit into the memory of {device}") from None
    except _LOAD_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise SetupError(f"{files.folder}: the model cannot be read: {type(error).__name__}: {reason}") from None
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _variant(files: ModelFiles) -> str | None:
    """`fp16` where the folder has no other weights."""
    names = [path.name for path in files.paths if path.suffix == ".safetensors"]
    return "fp16" if all(".fp16." in name for name in names) else None


def _without_checker(files: ModelFiles) -> dict[str, Any]:
    has_checker = (files.folder / "safety_checker").exists() or files.class_name == "StableDiffusionPipeline"
    return {"safety_checker": None, "requires_safety_checker": False} if has_checker else {}


def _wanted(served: tuple[Served, ...], names: tuple[str, ...], files: ModelFiles) -> tuple[Served, ...]:
    known = {row.pipeline: row for row in served}
    missing = [name for name in names if name not in known]
    if missing:
        raise SetupError(
            f"{files.folder}: a {files.class_name} does not serve {missing[0]}; it serves {', '.join(known)}"
        )
    return tuple(known[name] for name in names) or served


def _describe(
    settings: RunnerSettings, files: ModelFiles, served: tuple[Served, ...], device: torch.device, dtype: torch.dtype
) -> ModelInfo:
    info = ModelInfo(
        model=settings.advertised_id,
        digest=files.digest(),
        variant=str(dtype).removeprefix("torch."),
        served=served,
        licence=Licence(settings.licence.id, settings.licence.commercial) if settings.licence else files.licence,
        versions={"python": platform.python_version(), "runner": version("reelnet")} | _library_versions(),
    )
    if device.type != "cuda":
        return info
    card = torch.cuda.get_device_properties(device)
    return replace(info, device=card.name, vram_bytes=card.total_memory)


def _library_versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "diffusers", "transformers")}
