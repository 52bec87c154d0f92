"""FILM as a model folder: written once from the published file, loaded by the runner, asked for frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from runner.backend import Pixels, SetupError
from runner.models.digest import INDEX, read_json, survey
from runner.models.film import PUBLISHED, Film, FilmShape, Motion, layout
from runner.models.numbers import is_finite, not_finite
from runner.models.torchscript import read_tensors

CLASS = "FilmInterpolation"
"""`_class_name` in a folder's model_index.json."""
CONFIG, WEIGHTS = "config.json", "model.safetensors"
TENSOR_BYTES = 512 * 2**20
"""Most bytes of the published file's tensors; in 32 bits they take 138 MB."""
_NAMED = 5
"""Tensors that an error names."""


def convert(source: Path, folder: Path, shape: FilmShape = PUBLISHED) -> None:
    """Writes the published TorchScript file `source` as a model folder; nothing in it is run.

    Raises SetupError that names the tensors which are missing, unknown or of another shape.
    """
    tensors = read_tensors(source, TENSOR_BYTES)
    check_layout(tensors, shape, str(source))
    write(folder, shape, tensors)


def write(folder: Path, shape: FilmShape, tensors: Mapping[str, torch.Tensor]) -> None:
    """A network's folder: its class, its shape, its weights. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).write_text(json.dumps({"_class_name": CLASS}, indent=2) + "\n", "utf-8")
    (folder / CONFIG).write_text(json.dumps(asdict(shape), indent=2) + "\n", "utf-8")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)


def check_layout(tensors: Mapping[str, torch.Tensor], shape: FilmShape, source: str) -> None:
    """Raises SetupError unless these are the tensors of a network of that shape, all of them and no others."""
    expected = layout(shape)
    faults = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    faults += [f"{name} is unknown" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        found = tensors[name]
        if tuple(found.shape) != expected[name]:
            faults.append(f"{name} has shape {_times(found.shape)} instead of {_times(expected[name])}")
        elif not found.is_floating_point():
            faults.append(f"{name} holds {found.dtype} instead of floating-point numbers")
    if faults:
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise SetupError(f"{source}: not a FILM network: {'; '.join(sorted(faults)[:_NAMED])}{more}")


def read_shape(folder: Path) -> FilmShape:
    """The shape in a folder's config.json. Raises SetupError."""
    stated: dict[str, Any] = read_json(folder / CONFIG)
    try:
        widths = tuple(_whole(width) for width in stated.pop("flow_filters"))
        sizes: dict[str, Any] = {name: _whole(value) for name, value in stated.items()}
        shape = FilmShape(flow_filters=widths, **sizes)
        layout(shape)
    except (KeyError, TypeError, ValueError) as error:
        raise SetupError(f"{folder / CONFIG}: not the shape of a FILM network: {error}") from None
    return shape


@dataclass(frozen=True, slots=True)
class FilmFrames:
    """A loaded FILM network behind `runner.interpolation`'s port: frames in and out as RGB bytes."""

    film: Film
    device: torch.device
    dtype: torch.dtype

    def between(self, first: Pixels, second: Pixels) -> FilmBetween:
        """Compares two frames of equal shape (height, width, 3), of any size."""
        if first.shape != second.shape:
            raise ValueError(f"frames of {first.shape} and {second.shape} cannot be compared")
        with torch.inference_mode():
            motion = self.film.relate(self._tensor(first), self._tensor(second))
        return FilmBetween(self.film, motion, first.shape[0], first.shape[1])

    def _tensor(self, frame: Pixels) -> torch.Tensor:
        picture = torch.from_numpy(frame.copy()).to(self.device).permute(2, 0, 1)[None]
        return padded(picture.to(self.dtype) / 255, self.film.shape.unit)


@dataclass(frozen=True, slots=True)
class FilmBetween:
    """The moments between two frames of `height` × `width`."""

    film: Film
    motion: Motion
    height: int
    width: int

    def at(self, t: float) -> Pixels:
        """The frame at `t`, 0 < t < 1. Raises NodeError for what is no number."""
        with torch.inference_mode():
            picture = cropped(self.film.at(self.motion, t), self.height, self.width)
            if not is_finite(picture):
                raise not_finite("pixels")
            shown = picture[0].float().clamp(0, 1)
            frame: Pixels = (shown * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        return frame


def load_film(folder: Path, device: torch.device, dtype: torch.dtype) -> FilmFrames:
    """The network in `folder`, on its device. Raises SetupError with what to do about it."""
    shape = read_shape(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise SetupError(f"{folder / WEIGHTS}: cannot be read: {error}; import the model again") from None
    check_layout(tensors, shape, str(folder / WEIGHTS))
    with torch.device("meta"):
        film = Film(shape)
    film.load_state_dict(tensors, assign=True)
    try:
        film = film.to(device, dtype).eval().requires_grad_(False)
    except torch.OutOfMemoryError:
        raise SetupError(f"{folder}: the model does not fit into the memory of {device}") from None
    return FilmFrames(film, device, dtype)


def load_beside(folder: Path, device: torch.device, dtype: torch.dtype) -> FilmFrames:
    """The network that makes frames between a video model's. Raises SetupError for a folder of anything else."""
    try:
        found = survey(folder).class_name
        if found != CLASS:
            raise SetupError(
                f"{folder}: a {found or 'model without a class'} makes no frames between two; it takes FILM"
            )
        return load_film(folder, device, dtype)
    except SetupError as error:
        raise SetupError(f"interpolation: {error}") from None


def padded(picture: torch.Tensor, unit: int) -> torch.Tensor:
    """(batch, channels, height, width) with its edges repeated until both sides are multiples of `unit`."""
    left, right = _margins(picture.shape[3], unit)
    top, bottom = _margins(picture.shape[2], unit)
    return F.pad(picture, (left, right, top, bottom), mode="replicate")


def cropped(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of `picture`: what `padded` was given."""
    top, left = (picture.shape[2] - height) // 2, (picture.shape[3] - width) // 2
    return picture[:, :, top : top + height, left : left + width]


def _margins(side: int, unit: int) -> tuple[int, int]:
    missing = -side % unit
    return missing // 2, missing - missing // 2


def _whole(value: object) -> int:
    if not isinstance(value, int) or not 1 <= value <= 4096:
        raise ValueError(f"{value!r} is no size")
    return value


def _times(shape: Any) -> str:
    return "×".join(map(str, shape))
