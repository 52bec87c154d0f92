"""Results that are no numbers, and half precision's second try."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")

from reelnet.errors import FailureClass, NodeError  # noqa: E402
from runner.models.numbers import as_bytes, finite_decoding  # noqa: E402

pytestmark = pytest.mark.diffusers
PEAK = 4e4
"""A latent whose double is beyond float16."""


class Vae(torch.nn.Module):
    """Doubles its latents in its own number format, and gives them back halved in the format that it was given."""

    def __init__(self, dtype: Any, broken: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0 * broken, dtype=dtype))
        self.calls: list[Any] = []

    @property
    def dtype(self) -> Any:
        return self.weight.dtype

    def decode(self, latents: Any, return_dict: bool = True) -> Any:
        self.calls.append(latents.dtype)
        sample = latents * self.weight / 2.0
        return SimpleNamespace(sample=sample) if return_dict else (sample,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_no_numbers_are_no_picture(value: float) -> None:
    """One value of a million is enough; NaN was black, and infinity white."""
    pixels = np.full((1, 8, 8, 3), 0.5, np.float32)
    assert (as_bytes(pixels) == 128).all()
    pixels[0, 3, 3, 1] = value
    with pytest.raises(NodeError, match="no numbers") as failure:
        as_bytes(pixels)
    assert (failure.value.failure, failure.value.code) == (FailureClass.NODE, "not_finite")


@pytest.mark.parametrize("form", [True, False], ids=["object", "tuple"])
def test_half_precision_that_overflows_is_decoded_in_float32(form: bool) -> None:
    """The picture comes out; the weights are float16 again afterwards, bit for bit."""
    vae = Vae(torch.float16)
    latents = torch.full((1, 4, 2, 2), PEAK, dtype=torch.float16)
    with torch.inference_mode(), finite_decoding(SimpleNamespace(vae=vae)):
        found = vae.decode(latents, return_dict=form)
    sample = found.sample if form else found[0]
    assert torch.equal(sample, latents.float())
    assert vae.calls == [torch.float16, torch.float32]
    assert (vae.dtype, vae.weight.item()) == (torch.float16, 2.0)
    assert "decode" not in vars(vae)


def test_what_fits_is_decoded_once() -> None:
    """The second try costs nothing where the first one is good."""
    vae = Vae(torch.float16)
    with finite_decoding(SimpleNamespace(vae=vae)):
        vae.decode(torch.ones(1, 4, 2, 2, dtype=torch.float16))
    assert vae.calls == [torch.float16]


@pytest.mark.parametrize(
    ("dtype", "latent", "broken", "what"),
    [
        (torch.float32, 1.0, float("nan"), "pixels"),
        (torch.float16, 1.0, float("inf"), "pixels"),
        (torch.float32, float("nan"), 1.0, "latents"),
        (torch.float16, float("inf"), 1.0, "latents"),
    ],
)
def test_a_broken_model_fails_the_job_as_what_it_is(dtype: Any, latent: float, broken: float, what: str) -> None:
    """Latents that are no numbers are not decoded; a VAE that gives none in float32 either is broken."""
    vae = Vae(dtype, broken)
    with finite_decoding(SimpleNamespace(vae=vae)), pytest.raises(NodeError, match=what):
        vae.decode(torch.full((1, 4, 2, 2), latent, dtype=dtype))
    assert vae.dtype is dtype
    assert bool(vae.calls) is (what == "pixels")


def test_a_vae_that_a_class_left_in_float32_is_half_again() -> None:
    """A class that decodes in float32 by itself leaves it so when its call fails: the next job would fail of it."""
    vae = Vae(torch.float16)
    with finite_decoding(SimpleNamespace(vae=vae)):
        vae.to(torch.float32)
    assert vae.dtype is torch.float16


def test_a_pipeline_without_a_vae_is_let_be() -> None:
    """Some have their decoder elsewhere."""
    with finite_decoding(SimpleNamespace()):
        pass
