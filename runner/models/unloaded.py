"""A model's needs before it is loaded: from a well-known name, or from the configurations in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from reelnet.home import model_dir
from reelnet.model_classes import UPSCALER, family_of, pipelines_of
from reelnet.pipelines import Pipeline, pipeline_named
from runner.backend import SetupError
from runner.memory_budget import Offload
from runner.models import film_folder
from runner.models.architectures import PUBLISHED
from runner.models.digest import INDEX, WEIGHTS, model_files, read_json
from runner.models.estimate import Estimate
from runner.models.families import FULL_NUMBERS, PROMPTED_CLASSES, UPSCALE_CLASS, VIDEO_CLASS
from runner.models.libraries import quiet_libraries
from runner.models.loading import choose_dtype
from runner.models.shadows import Nets, of_format, shadows_in
from runner.models.upscaler import describe
from runner.pipelines.clip_memory import DiffusionUpscaleNeeds, FilmNeeds, TileNeeds
from runner.pipelines.needs import Needs
from runner.pipelines.picture_memory import PictureNeeds
from runner.pipelines.prompted_memory import PromptedNeeds
from runner.pipelines.video_memory import VideoNeeds

_ON_A_CARD = torch.device("cuda")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. model: a name of PUBLISHED, an id below `home`, or a folder. dtype: as the runner's setting.

    tiling_pixels and tile: as the settings vae_tiling_pixels and tile.
    """

    model: str
    home: Path | None = None
    dtype: str = "auto"
    offload: Offload = "none"
    tiling_pixels: int | None = None
    tile: int = 0


@dataclass(frozen=True, slots=True)
class Outline:
    """A model that was not loaded: its estimate on a card, the pipelines of its class by name, its number format."""

    estimate: Estimate
    pipelines: Mapping[str, Pipeline]
    dtype: str


def outline(question: Question) -> Outline:
    """The answer. Raises SetupError for a folder without a model in it."""
    quiet_libraries()
    class_name, folder = _class_of(question)
    dtype = choose_dtype(question.dtype, _ON_A_CARD, class_name)
    needs = _needs(question, class_name, folder, dtype)
    names = pipelines_of(class_name) or ("text-to-image",)
    pipelines = {name: pipeline_named(name, family_of(class_name)) for name in names}
    return Outline(Estimate.of(needs, question.offload), pipelines, str(dtype).removeprefix("torch."))


def _class_of(question: Question) -> tuple[str, Path]:
    if question.model in PUBLISHED:
        return PUBLISHED[question.model].class_name, Path()
    folder = model_dir(question.model, Path.cwd(), question.home)
    if not folder.is_dir():
        known = ", ".join(PUBLISHED)
        raise SetupError(f"{folder}: there is no such model folder, and {question.model!r} is none of {known}")
    index = {"_class_name": UPSCALER} if not (folder / INDEX).exists() else read_json(folder / INDEX)
    return str(index.get("_class_name", "")), folder


def _needs(question: Question, class_name: str, folder: Path, dtype: torch.dtype) -> Needs:
    if class_name == film_folder.CLASS:
        return FilmNeeds.of(film_folder.read_shape(folder), dtype)
    if class_name == UPSCALER:
        return _upscaler(question, folder, dtype)
    if question.model in PUBLISHED:
        nets = of_format(PUBLISHED[question.model].components(), dtype)
    else:
        nets = shadows_in(folder, dtype, FULL_NUMBERS.get(class_name, ()))
    if class_name in PROMPTED_CLASSES:
        first_frame = bool(read_json(folder / INDEX).get("expand_timesteps"))
        return PromptedNeeds(nets, first_frame, question.tiling_pixels)
    if class_name == VIDEO_CLASS:
        return VideoNeeds(nets)
    if class_name == UPSCALE_CLASS:
        return DiffusionUpscaleNeeds(nets)
    return PictureNeeds(nets, question.tiling_pixels)


def _upscaler(question: Question, folder: Path, dtype: torch.dtype) -> TileNeeds:
    """An upscaler's architecture is only known from its tensors, which are read into main memory."""
    weights = [path for path in model_files(folder) if path.suffix in WEIGHTS]
    if not weights:
        raise SetupError(f"{folder}: has neither {INDEX} nor safetensors weights")
    model = describe(weights[0])
    return TileNeeds(Nets({"upscaler": model.model.to(dtype)}, dtype), question.tile, model.input_channels)
