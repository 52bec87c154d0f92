"""The colours of latents, and the layouts in which diffusers' pipelines hold them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
from runner.pipelines.latent_colours import CLIP_FRAMES, SIDE, LatentColours, fit_colours, sample_pictures  # noqa: E402
from runner.pipelines.latent_previews import shown_part  # noqa: E402
from tests.fakes.vae import LinearVae  # noqa: E402

pytestmark = pytest.mark.diffusers
CPU = torch.device("cpu")
COLOURS = LatentColours(np.zeros((5, 3), np.float32))
CLIP_COLOURS = LatentColours(np.zeros((5, 3), np.float32), of_clips=True)


def _photograph(side: int = 64) -> Any:
    """Smooth colours that are none of the pictures of the fit, shape (1, 3, side, side) in -1…1."""
    small = np.random.default_rng(7).random((1, 3, 5, 5)).astype(np.float32)
    return torch.nn.functional.interpolate(torch.from_numpy(small), size=(side, side), mode="bicubic") * 1.6 - 0.8


def _seen(vae: LinearVae, scaled: Callable[[Any], Any]) -> float:
    """How far, of 255, the painted colours of a picture are from the means of its pixels, at most."""
    colours = fit_colours(vae, CPU)
    assert colours is not None
    picture = _photograph()
    painted = colours.paint(scaled(vae.latents(picture))[0].numpy())
    means = torch.nn.functional.avg_pool2d(picture, vae.cell)[0].permute(1, 2, 0).numpy() / 2 + 0.5
    return float(np.abs(painted / 255 - means.clip(0, 1)).max() * 255)


@pytest.mark.parametrize("channels", [4, 16])
def test_the_map_of_a_linear_vae_is_found(channels: int) -> None:
    """Its colours come back to a grey level or two, for pictures that it was not fitted to."""
    assert _seen(LinearVae(channels, scaling_factor=0.18215), lambda latents: latents * 0.18215) < 2


def test_a_shift_is_in_the_map() -> None:
    """As SD 3 and FLUX have it."""
    vae = LinearVae(16, scaling_factor=1.5, shift_factor=0.06)
    assert _seen(vae, lambda latents: (latents - 0.06) * 1.5) < 2


def test_means_and_deviations_are_in_the_map() -> None:
    """As Wan has them, by channel, for a VAE of clips."""
    mean, deviation = np.linspace(-1, 1, 16), np.linspace(0.5, 3, 16)
    vae = LinearVae(16, of_clips=True, latents_mean=mean.tolist(), latents_std=deviation.tolist())

    def scaled(latents: Any) -> Any:
        columns = (torch.tensor(values, dtype=torch.float32).reshape(1, 16, 1, 1) for values in (mean, deviation))
        centre, spread = columns
        return (latents - centre) / spread

    assert _seen(vae, scaled) < 2
    assert vae.asked[-1] == (1, 3, CLIP_FRAMES, SIDE, SIDE)


def test_a_fit_takes_no_chance_and_changes_nothing() -> None:
    """The noise that comes next is the same, weights and numbers too, and the map is the same each time."""
    vae = LinearVae(4)
    weights, state = copy.deepcopy(vae.state_dict()), torch.random.get_rng_state()
    first, second = fit_colours(vae, CPU), fit_colours(vae, CPU)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(kept, weights[name]) for name, kept in vae.state_dict().items())
    assert first is not None
    assert second is not None
    assert np.array_equal(first.weights, second.weights)


@pytest.mark.parametrize(
    ("vae", "own"),
    [(LinearVae(4, force_upcast=True), torch.float16), (LinearVae(4), torch.bfloat16)],
    ids=["too wide for float16", "bfloat16 on a CPU"],
)
def test_a_vae_that_sixteen_bits_do_not_suit_is_fitted_in_more(vae: LinearVae, own: torch.dtype) -> None:
    """A CPU has no sixteen bits worth a name. It has its own numbers again afterwards, to the bit."""
    vae = vae.to(own)
    weights = copy.deepcopy(vae.state_dict())
    assert fit_colours(vae, CPU) is not None
    assert set(vae.kinds) == {torch.float32}
    assert vae.dtype == own
    assert all(torch.equal(kept, weights[name]) for name, kept in vae.state_dict().items())


def test_what_gives_no_numbers_has_no_colours() -> None:
    """Nor does a VAE whose answer holds no latents."""
    vae = LinearVae(4)
    vae.weight.data.fill_(float("nan"))
    assert fit_colours(vae, CPU) is None
    strange = LinearVae(4)
    strange.encode = lambda pixels: object()
    assert fit_colours(strange, CPU) is None


def test_latents_that_are_no_numbers_are_black() -> None:
    """A model that fails is seen to."""
    painted = COLOURS.paint(np.full((4, 2, 3), np.nan, np.float32))
    assert painted.shape == (2, 3, 3)
    assert not painted.any()


def test_the_pictures_of_the_fit_are_in_range_and_many_coloured() -> None:
    """Each colour channel has all of its values, in patches, gradients and clouds."""
    for picture in sample_pictures():
        assert (picture.shape, picture.dtype) == ((SIDE, SIDE, 3), np.float32)
        assert picture.min() >= 0
        assert picture.max() <= 1
        assert picture.std((0, 1)).min() > 0.1


def test_pictures_as_most_pipelines_have_them() -> None:
    """(1, channels, height, width); another number of channels is not known."""
    latents = torch.rand(1, 4, 6, 8)
    shown = shown_part(latents, COLOURS, (6, 8))
    assert shown is not None
    assert torch.equal(shown, latents[0])
    assert shown_part(torch.rand(1, 8, 6, 8), COLOURS, (6, 8)) is None


def test_packed_pictures_are_unpacked_as_their_pipeline_does() -> None:
    """Two cells by two are one token; a grid that does not fit is not known."""
    from diffusers import FluxPipeline

    latents = torch.rand(1, 4, 6, 8)
    packed = FluxPipeline._pack_latents(latents, 1, 4, 6, 8)
    shown = shown_part(packed, COLOURS, (6, 8))
    assert shown is not None
    assert torch.equal(shown, latents[0])
    odd = shown_part(packed, COLOURS, (7, 9))  # sides that are no multiple of two cells
    assert odd is not None
    assert shown_part(packed, COLOURS, (8, 8)) is None


def test_of_a_clip_the_frame_in_its_middle_is_shown() -> None:
    """Frames stand before channels, but for VAEs of clips; as many frames as channels are no riddle."""
    latents = torch.rand(1, 4, 4, 6, 8)
    apart, together = shown_part(latents, COLOURS, (6, 8)), shown_part(latents, CLIP_COLOURS, (6, 8))
    assert apart is not None
    assert together is not None
    assert torch.equal(apart, latents[0, 2])
    assert torch.equal(together, latents[0, :, 2])
    assert shown_part(torch.rand(1, 14, 5, 6, 8), COLOURS, (6, 8)) is None
    assert shown_part(torch.rand(4, 6), COLOURS, (6, 8)) is None
