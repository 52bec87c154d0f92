"""A VAE that overflows in half precision, as SDXL's does in float16, draws what it draws in float32."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runner.models.tiny import SD
from tests.integration.runner.diffusion import apart, draw, running

pytestmark = pytest.mark.diffusers
BEYOND_HALF = 3e4
"""The decoder's first layer gives so much more than before; the norm behind it takes that out again."""


@pytest.fixture
def overflowing(tiny_models: Path, tmp_path: Path) -> Path:
    """A tiny model whose decoder passes float16's range."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_models / SD, tmp_path / "overflowing")
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    larger = {name: each * BEYOND_HALF for name, each in tensors.items() if name.startswith("decoder.conv_in")}
    save_file(tensors | larger, weights, metadata={"format": "pt"})
    return folder


async def test_a_picture_that_half_precision_loses_is_drawn_in_float32(overflowing: Path, tmp_path: Path) -> None:
    """Two jobs are the same to the byte, and look as in float32; one that is not decoded twice would be black."""
    async with running(tmp_path, str(overflowing), tmp_path, dtype="float32") as runner:
        full = (await draw(runner)).pixels()
    async with running(tmp_path, str(overflowing), tmp_path, dtype="float16") as runner:
        half = await draw(runner)
        assert (await draw(runner)).outputs == half.outputs
    assert half.pixels().std() > 10
    assert apart(half.pixels(), full) < 2
