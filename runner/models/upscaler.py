"""Upscalers: a checkpoint of any architecture that spandrel knows, found by its own tensors, as a model of one size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from spandrel import ImageModelDescriptor, ModelLoader, ModelTiling, UnsupportedModelError

from reelnet.errors import NOT_FINITE, NodeError
from reelnet.parameters import UPSCALE_FACTOR
from runner.backend import Pixels, SetupError
from runner.models.digest import ModelFiles
from runner.upscale_tiles import Floats

AUTO_TILES = (1024, 768, 512, 384, 256, 192, 128, 96, 64)
"""Sides that an automatic tile may have: few, so that a job is tiled alike today and tomorrow."""
CPU_TILE = 256
_PROBE = 64
_SHARE = 0.5
"""Of the free memory, what tiles may take."""
_READ_ERRORS = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, UnsupportedModelError)


class Upscaler:
    """One model that enlarges pictures, on its device. `tile` is the side, pixels, that its memory is thought to hold.

    `tile` is 0 where the model is not to be tiled.
    """

    factor = UPSCALE_FACTOR

    def __init__(self, model: ImageModelDescriptor[Any], tile: int = 0) -> None:
        self._model = model
        self.architecture = model.architecture.name
        self.tile = 0 if model.tiling is ModelTiling.INTERNAL else tile or self._auto_tile()

    @property
    def dtype(self) -> torch.dtype:
        """The weights' number format."""
        return self._model.dtype

    @property
    def net(self) -> torch.nn.Module:
        """The network itself."""
        return self._model.model

    @property
    def channels(self) -> int:
        """Channels of the picture that it takes at once."""
        return int(self._model.input_channels)

    @property
    def on_host(self) -> bool:
        """Whether it computes in main memory."""
        return bool(self._model.device.type == "cpu")

    def enlarge(self, picture: Floats) -> Floats:
        """The picture at four times its sides. Raises torch's OutOfMemoryError, NodeError for what is no number."""
        with torch.inference_mode():
            enlarged: Floats = self._run(torch.from_numpy(picture).to(self._model.device)).cpu().numpy()
        return enlarged

    def enlarge_bytes(self, pixels: Pixels) -> Pixels:
        """As `enlarge` for a whole picture, from bytes to bytes: the device does the arithmetic, and less is moved."""
        with torch.inference_mode():
            large = self._run(torch.from_numpy(pixels).to(self._model.device).float() / 255)
            enlarged: Pixels = (large * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return enlarged

    def _run(self, picture: torch.Tensor) -> torch.Tensor:
        """Floats in, floats out, shape (height, width, 3), on the device."""
        planes = picture.permute(2, 0, 1)[None].to(self._model.dtype)
        if self._model.input_channels == 1:
            large = torch.cat([self._model(planes[:, n : n + 1]) for n in range(3)], 1)
        else:
            large = self._model(planes)
        if not bool(torch.isfinite(large).all()):
            message = f"the upscaler's numbers overflow in {self._model.dtype}; its operator can set dtype: float32"
            raise NodeError(message, code=NOT_FINITE)
        return large[0].float().permute(1, 2, 0)

    def free(self) -> None:
        """Gives what the allocator keeps back to the device."""
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _auto_tile(self) -> int:
        """The largest side whose memory fits twice, by what a small picture takes."""
        device = self._model.device
        if device.type != "cuda":
            return CPU_TILE
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        self.enlarge(np.zeros((_PROBE, _PROBE, 3), np.float32))
        each = max(1.0, (torch.cuda.max_memory_allocated(device) - before) / _PROBE**2)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return tile_for(torch.cuda.mem_get_info(device)[0] + kept, each)


def tile_for(free_bytes: int, bytes_per_pixel: float) -> int:
    """The largest side of a tile that takes at most half of the memory that is free."""
    side = math.sqrt(free_bytes * _SHARE / bytes_per_pixel)
    return next((tile for tile in AUTO_TILES if tile <= side), AUTO_TILES[-1])


def read_upscaler(files: ModelFiles, device: torch.device, dtype: str, tile: int) -> Upscaler:
    """The upscaler in these files. `dtype` is a setting's: `auto` is the smallest that model and device allow.

    Raises SetupError for weights that no architecture fits, and for a model that is not four times.
    """
    try:
        model = describe(next(path for path in files.paths if path.suffix == ".safetensors"))
        return Upscaler(model.to(device, _number_format(model, device, dtype)).eval(), tile)
    except torch.OutOfMemoryError:
        raise SetupError(f"{files.folder}: the model does not fit into the memory of {device}") from None


def describe(checkpoint: Path) -> ImageModelDescriptor[Any]:
    """The model in a safetensors file, on the CPU. Raises SetupError."""
    try:
        model = ModelLoader(device="cpu").load_from_file(checkpoint)
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or "its tensors are those of no upscaler that is known here"
        raise SetupError(f"{checkpoint}: no upscaler: {type(error).__name__}: {reason}") from None
    if not isinstance(model, ImageModelDescriptor) or model.input_channels != model.output_channels:
        raise SetupError(f"{checkpoint}: a {model.architecture.name} takes more than a picture; serve another model")
    if model.scale != UPSCALE_FACTOR:
        raise SetupError(
            f"{checkpoint}: enlarges {model.scale} times; the pipelines here promise {UPSCALE_FACTOR}: "
            f"serve a model of {UPSCALE_FACTOR} times"
        )
    if model.input_channels not in (1, 3):
        raise SetupError(f"{checkpoint}: takes {model.input_channels} channels; a picture has 3, or 1 at a time")
    return model


def _number_format(model: ImageModelDescriptor[Any], device: torch.device, name: str) -> torch.dtype:
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if name in known:
        return known[name]
    if device.type != "cuda":
        return torch.float32
    if model.supports_half:
        return torch.float16
    return torch.bfloat16 if model.supports_bfloat16 else torch.float32
