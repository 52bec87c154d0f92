"""From a model's class to the family that serves it, read from its folder alone."""

from __future__ import annotations

import importlib
import inspect
import re
import tempfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.pipelines.auto_pipeline import AUTO_IMAGE2IMAGE_PIPELINES_MAPPING, AUTO_TEXT2IMAGE_PIPELINES_MAPPING
from safetensors import SafetensorError

from reelnet.model_classes import EDITING, UPSCALER, VIDEO_PIPELINE, draws_clips_alone, family_of, pipelines_of
from runner.backend import SetupError
from runner.models import film_folder
from runner.models.digest import INDEX, ModelFiles, read_json
from runner.models.layout import Weights, component_class
from runner.models.lora import LoraShelf
from runner.models.lora_files import survey_loras
from runner.models.memory import compile_net, place
from runner.models.safety import load_safety
from runner.models.upscaler import read_upscaler
from runner.models.warmup import own_size, warm_up
from runner.pipelines.arguments import Arguments
from runner.pipelines.extras import Extras
from runner.pipelines.family import Family
from runner.pipelines.frame_interpolation import Interpolation
from runner.pipelines.pictures import Pictures
from runner.pipelines.schedulers import Schedulers
from runner.pipelines.stable_video import StableVideo
from runner.pipelines.upscale import DiffusionUpscale, TiledUpscale
from runner.pipelines.wan_video import WanVideo
from runner.safety import Safety
from runner.settings import RunnerSettings
from runner.video_frames import ClipMaker

UPSCALE_CLASS = "StableDiffusionUpscalePipeline"
VIDEO_CLASS = "StableVideoDiffusionPipeline"
PROMPTED_CLASSES = ("WanImageToVideoPipeline", "WanPipeline")
"""The second one is a model of words alone, or TI2V's, which takes a picture as well."""
FULL_NUMBERS = dict.fromkeys(PROMPTED_CLASSES, ("vae", "image_encoder"))
"""Nets of a class that were trained for float32 and are published in it, whatever the others have."""
_TEXT = "text-to-image"
_IMAGE = "image-to-image"
_VIDEO = "image-to-video"
_LOAD_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RuntimeError,
    ImportError,
    SafetensorError,
    SingleFileComponentError,
)
"""What diffusers and transformers raise for a folder that is not as they expect."""


def read_family(files: ModelFiles, settings: RunnerSettings, device: torch.device, dtype: torch.dtype) -> Family:
    """The model's family, on its device, with what the settings add to it. Raises SetupError."""
    if settings.interpolation and VIDEO_PIPELINE not in pipelines_of(files.class_name):
        raise SetupError("interpolation: for a model of video alone; leave the setting out")
    if files.class_name == UPSCALER:
        _refuse_beside_pictures(settings)
        return TiledUpscale(read_upscaler(files, device, settings.dtype, settings.tile), settings.clip_output)
    if files.class_name == UPSCALE_CLASS:
        _refuse_beside_pictures(settings)
        pipe = _read(diffusers.StableDiffusionUpscalePipeline, files, dtype)
        _place({"upscale": pipe}, files, settings, device)
        return DiffusionUpscale(pipe)
    if files.class_name == film_folder.CLASS:
        _refuse_beside_pictures(settings)
        film = film_folder.load_film(files.folder, device, dtype)
        return Interpolation(film, settings.clip_output)
    if files.class_name == VIDEO_CLASS:
        _refuse_beside_pictures(settings, but=("compile", "safety"))
        pipe = _read(diffusers.StableVideoDiffusionPipeline, files, dtype)
        _place({_TEXT: pipe}, files, settings, device)
        safety = load_safety(files.folder, settings.safety, device, dtype)
        return _compiled(StableVideo(pipe, _clip_maker(settings, safety, device, dtype)), pipe, settings)
    if files.class_name in PROMPTED_CLASSES:
        return _prompted_video(files, settings, (device, dtype))
    pipes = _picture_pipes(files, dtype)
    _check_net(next(iter(pipes.values())), files)
    _place(pipes, files, settings, device)
    family = Pictures(pipes, _extras(pipes, files, settings, (device, dtype)))
    if not _is_tried(files.class_name):
        family.try_out()
    return _compiled(family, next(iter(pipes.values())), settings)


def _prompted_video(files: ModelFiles, settings: RunnerSettings, at: tuple[torch.device, torch.dtype]) -> Family:
    if draws_clips_alone(read_json(files.folder / INDEX)):
        raise SetupError(f"{files.folder}: makes clips from words alone, which no pipeline here does")
    device, dtype = at
    pipe = _read(diffusers.WanImageToVideoPipeline, files, dtype)
    _place({_VIDEO: pipe}, files, settings, device)
    extras = _extras({_VIDEO: pipe}, files, settings, at)
    return _compiled(WanVideo(pipe, extras, _clip_maker(settings, extras.safety, *at)), pipe, settings)


def _compiled(family: Family, pipe: Any, settings: RunnerSettings) -> Family:
    """The family, whose nets are compiled and warm if the settings say so. Raises SetupError."""
    if settings.compile:
        compile_net(pipe)
        warm_up(family, settings.warmup_sizes or (own_size(pipe),))
    return family


def _clip_maker(settings: RunnerSettings, safety: Safety, device: torch.device, dtype: torch.dtype) -> ClipMaker:
    """With the FILM network that lies beside a video model, or that the settings name; it stays on the device.

    On a GPU it computes in float16, whatever the model does, unless the operator says otherwise: bfloat16 has fewer
    digits than the colours of a picture.
    """
    output, folder = settings.clip_output, settings.interpolation_folder
    if folder is None:
        return ClipMaker(output, safety=safety)
    half = settings.dtype == "auto" and device.type == "cuda"
    return ClipMaker(output, film_folder.load_beside(folder, device, torch.float16 if half else dtype), safety)


def _refuse_beside_pictures(settings: RunnerSettings, but: Container[str] = ()) -> None:
    for name in ("scheduler", "loras", "compile"):
        if name not in but and getattr(settings, name):
            raise SetupError(f"{name}: not for a model of this kind; leave the setting out")
    if "safety" not in but and settings.safety in ("blur", "refuse"):
        raise SetupError(
            f"safety: no checker for this pipeline, so {settings.safety!r} cannot be kept; say 'flag' or 'off'"
        )


def _picture_pipes(files: ModelFiles, dtype: torch.dtype) -> dict[str, Any]:
    """A pipeline for each of the picture pipelines that the model's class has, sharing their nets."""
    name = files.class_name
    if family_of(name) == EDITING:
        return {_IMAGE: _read(getattr(diffusers, name), files, dtype)}
    if name in _names(AUTO_TEXT2IMAGE_PIPELINES_MAPPING):
        drawing = _read(diffusers.AutoPipelineForText2Image, files, dtype)
        changing = _changing(drawing)
        return {_TEXT: drawing} | ({_IMAGE: changing} if changing is not None else {})
    if name in _names(AUTO_IMAGE2IMAGE_PIPELINES_MAPPING):
        return {_IMAGE: _read(diffusers.AutoPipelineForImage2Image, files, dtype)}
    raise SetupError(f"{files.folder}: no pipeline here serves a {name or 'model without a class'}")


def _check_net(pipe: Any, files: ModelFiles) -> None:
    """Raises SetupError for a UNet that another class calls: the first job would fail."""
    unet, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    if unet is None or vae is None:
        return
    given = int(vae.config.latent_channels) * (2 if family_of(files.class_name) == EDITING else 1)
    if int(unet.config.in_channels) != given:
        raise SetupError(
            f"{files.folder}: its UNet takes {unet.config.in_channels} channels, and a {files.class_name} gives it "
            f"{given}; the class in {INDEX} is not the model's (inpainting has 9, InstructPix2Pix 8)"
        )
    if files.class_name.startswith("LatentConsistency") and unet.config.time_cond_proj_dim is None:
        raise SetupError(
            f"{files.folder}: its UNet reads no guidance, as a {files.class_name} gives it; name the class "
            f"StableDiffusionPipeline in {INDEX}, and the scheduler `lcm`"
        )


def _is_tried(class_name: str) -> bool:
    """Whether a class is a well-known one, or the one that changes pictures with such a one's nets."""
    drawing = AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    names = [key for key, kind in AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.items() if kind.__name__ == class_name]
    return any(pipelines_of(name) for name in (class_name, *(drawing[key].__name__ for key in names if key in drawing)))


def _changing(drawing: Any) -> Any:
    """The image-to-image pipeline over the same nets; None where the class has none that can be served."""
    try:
        pipe = diffusers.AutoPipelineForImage2Image.from_pipe(drawing)
    except ValueError:
        return None
    if Arguments.of(pipe).missing(_IMAGE):
        return None
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _names(mapping: Any) -> set[str]:
    return {known.__name__ for known in mapping.values()}


def _extras(
    pipes: dict[str, Any], files: ModelFiles, settings: RunnerSettings, at: tuple[torch.device, torch.dtype]
) -> Extras:
    pipe = next(iter(pipes.values()))
    schedulers = Schedulers(settings.scheduler)
    schedulers.check(pipe.scheduler)
    if settings.loras and not hasattr(pipe, "load_lora_weights"):
        raise SetupError(f"loras: a {files.class_name} takes none; leave the setting out")
    for lora in settings.loras:
        if lora.net and getattr(pipe, lora.net, None) is None:
            raise SetupError(f"loras: {lora.advertised_id}: the model has no {lora.net}; leave `net` out")
    return Extras(
        schedulers=schedulers,
        loras=LoraShelf(pipe, survey_loras(settings), settings.lora_bytes) if settings.loras else None,
        safety=load_safety(files.folder, settings.safety, *at),
        tiling_pixels=settings.vae_tiling_pixels,
    )


def _place(pipes: dict[str, Any], files: ModelFiles, settings: RunnerSettings, device: torch.device) -> None:
    try:
        place(pipes.values(), settings, device)
    except torch.OutOfMemoryError:
        raise SetupError(
            f"{files.folder}: the model does not fit into the memory of {device}; try offload: model"
        ) from None
    except _LOAD_ERRORS as error:  # weights that are missing in the files are found when they are moved
        raise _unreadable(files, error) from None


def _read(kind: Any, files: ModelFiles, dtype: torch.dtype) -> Any:
    """The diffusers pipeline, from this folder alone: no network, no pickles, no safety checker, no watermark."""
    try:
        pipe = _from_single_file(files, dtype) if files.layout.checkpoint else _from_folder(kind, files, dtype)
    except SingleFileComponentError as error:
        raise _incomplete(files, error) from None
    except _LOAD_ERRORS as error:
        raise _unreadable(files, error) from None
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _incomplete(files: ModelFiles, error: SingleFileComponentError) -> SetupError:
    """What to put beside a checkpoint that lacks a component. Diffusers names it as `NAME = CLASS.from_pretrained`."""
    named = re.search(r"(\w+) = \w+\.from_pretrained", str(error))
    if named is None:
        return _unreadable(files, error)
    return SetupError(
        f"{files.layout.checkpoint}: the model cannot be read: the file has no {named[1]} in it, and "
        f"none lies beside it; put one there: a folder `{named[1]}` with its config.json and its weights"
    )


def _unreadable(files: ModelFiles, error: Exception) -> SetupError:
    reason = " ".join(str(error).split())[:300]
    return SetupError(f"{files.folder}: the model cannot be read: {type(error).__name__}: {reason}")


def _from_folder(kind: Any, files: ModelFiles, dtype: torch.dtype) -> Any:
    varied = {name: weights for name, weights in files.layout.components.items() if weights.variant or weights.file}
    return kind.from_pretrained(
        files.folder,
        dtype=_number_formats(files, dtype),
        local_files_only=True,
        use_safetensors=True,
        **_loaded(files, varied, dtype),
        **_without_extras(files),
    )


def _loaded(files: ModelFiles, components: Mapping[str, Weights], dtype: torch.dtype) -> dict[str, Any]:
    """Components by themselves: diffusers reads one variant for a whole folder, and folders have several."""
    full = FULL_NUMBERS.get(files.class_name, ())
    return {name: _component(weights, torch.float32 if name in full else dtype) for name, weights in components.items()}


def _component(weights: Weights, dtype: torch.dtype) -> Any:
    kind = getattr(importlib.import_module(weights.library), weights.class_name)
    options = {"dtype": dtype, "local_files_only": True, "use_safetensors": True, "variant": weights.variant}
    if weights.file is None:
        return kind.from_pretrained(weights.folder, **options)
    with tempfile.TemporaryDirectory() as named:  # libraries find weights by one name only
        for path in weights.folder.glob("*.json"):
            (Path(named) / path.name).symlink_to(path.resolve())
        (Path(named) / f"{weights.stem}.safetensors").symlink_to(weights.file.resolve())
        return kind.from_pretrained(named, **options)


def _number_formats(files: ModelFiles, dtype: torch.dtype) -> Any:
    """The nets' number format, or a map of it where some nets keep their own."""
    full = FULL_NUMBERS.get(files.class_name)
    return {"default": dtype, **dict.fromkeys(full, torch.float32)} if full else dtype


def _from_single_file(files: ModelFiles, dtype: torch.dtype) -> Any:
    """A checkpoint in the layout of the original trainers; the folder's own configurations say what its nets are.

    Components that lie beside it are taken instead of its own.
    """
    kind = getattr(diffusers, files.class_name)
    beside = _loaded(files, files.layout.components, dtype)
    if files.layout.vae_file is not None:
        beside["vae"] = _vae(files, files.layout.vae_file, dtype)
    return kind.from_single_file(
        str(files.layout.checkpoint),
        config=str(files.folder),
        dtype=dtype,
        local_files_only=True,
        **beside,
        **_without_extras(files),
    )


def _vae(files: ModelFiles, path: Path, dtype: torch.dtype) -> Any:
    """An autoencoder that is one file, in its original trainers' names or in diffusers'."""
    kind = getattr(diffusers, component_class(read_json(files.folder / INDEX), "vae"))
    return kind.from_single_file(str(path), config=str(files.folder / "vae"), dtype=dtype, local_files_only=True)


def _without_extras(files: ModelFiles) -> dict[str, Any]:
    """The checker is loaded apart; a watermark would depend on what else is installed."""
    taken = inspect.signature(getattr(diffusers, files.class_name).__init__).parameters
    wanted = {"safety_checker": None, "requires_safety_checker": False, "add_watermarker": False}
    return {name: value for name, value in wanted.items() if name in taken}
