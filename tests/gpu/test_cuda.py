"""The diffusers backend on a CUDA device, on tiny models.

Those that say something of a CPU too run there in `make test`; nearly all can be tried there by hand, with
REELNET_TEST_DEVICE=cpu, so that a slip in a test is not found on a card that is lent for minutes.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelnet.errors import OutOfMemoryError
from tests.gpu.families import CASES, CHANGED, DEVICE, DRAWN, FILMED, WORDED, Case, apart, loaded, render, watch

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
CPU = pytest.param("cpu", marks=pytest.mark.diffusers)
ROUNDING = 4.0
"""Mean difference, of 255, that kernels in float32 may make of the same job."""
HALF = 12.0
"""The same of float16 and bfloat16; other noise makes more than 30."""
MUCH = 2**60
"""Bytes that no device has."""


@pytest.mark.parametrize("device", [CUDA, CPU])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_model_computes_on_its_device(tiny_models: Path, case: Case, device: str) -> None:
    """Its output is no constant, the same request gives the same frames, it takes memory, and it can recover."""
    with loaded(tiny_models, case.model, device=device) as backend:
        first, second = (render(backend, case) for _ in range(2))
        assert first.std() > 1
        assert np.array_equal(first, second)
        assert backend.memory_bytes() > 0
        backend.recover()
        assert np.array_equal(render(backend, case), first)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_card_draws_what_a_cpu_does(tiny_models: Path, case: Case) -> None:
    """From the same seed, but for rounding; in float32, where rounding is all that differs."""
    frames = []
    for device in (DEVICE, "cpu"):
        with loaded(tiny_models, case.model, device=device, dtype="float32") as backend:
            frames.append(render(backend, case))
    assert apart(*frames) < ROUNDING


@pytest.mark.gpu
@pytest.mark.parametrize("case", [*DRAWN, FILMED], ids=str)
def test_a_card_is_used_as_it_is_best_used(tiny_models: Path, case: Case) -> None:
    """By default in half precision (SD 3, FLUX: bfloat16), convolution nets over pictures as its kernels prefer."""
    import torch

    wide = case.model in ("sd3", "flux")
    with loaded(tiny_models, case.model) as backend:
        model: Any = backend._model
        assert model.info.device == torch.cuda.get_device_name()
        assert model.info.vram_bytes > 2**30
        assert model.info.variant == ("bfloat16" if wide else "float16")
        pipe = getattr(model.family, "_pipe", None) or model.family._pipes[case.pipeline]
        vae = next(weights for weights in pipe.vae.parameters() if weights.dim() == 4 and min(weights.shape) > 1)
        assert vae.is_cuda
        if case.model != "svd":
            assert vae.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.parametrize("case", [DRAWN[0], DRAWN[1], FILMED], ids=str)
def test_half_precision_is_close_to_full(tiny_models: Path, case: Case) -> None:
    """The default costs rounding, no more."""
    frames = []
    for dtype in ("float16", "float32"):
        with loaded(tiny_models, case.model, device=DEVICE, dtype=dtype) as backend:
            frames.append(render(backend, case))
    assert apart(*frames) < HALF


@pytest.mark.gpu
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [*DRAWN, FILMED, WORDED[0]], ids=str)
def test_a_compiled_model_draws_the_same(tiny_models: Path, tmp_path: Path, case: Case) -> None:
    """But for rounding; its kernels lie in the folder that was named, and it was warm before it was ready."""
    import torch

    torch.compiler.reset()  # a net's code may be compiled for a few shapes alone in one process
    frames = []
    shape = "x".join(str(case.params[name]) for name in ("width", "height", "num_frames") if name in case.params)
    for more in ({}, {"compile": True, "compile_cache": tmp_path / "kernels", "warmup": [shape]}):
        with loaded(tiny_models, case.model, device=DEVICE, pipelines=[case.pipeline], **more) as backend:
            frames.append(render(backend, case))
    assert apart(*frames) < HALF
    assert any(path.is_file() for path in (tmp_path / "kernels").rglob("*"))


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["model", "sequential"])
@pytest.mark.parametrize("case", [DRAWN[1], CHANGED[1], FILMED, WORDED[0]], ids=str)
def test_an_offloaded_model_draws_the_same(tiny_models: Path, offload: str, case: Case) -> None:
    """Where its nets wait is no matter for the picture."""
    frames = []
    for where in ("none", offload):
        with loaded(tiny_models, case.model, device=DEVICE, offload=where, channels_last=False) as backend:
            frames.append(render(backend, case))
    assert apart(*frames) < 1


@pytest.mark.gpu
@pytest.mark.parametrize("offload", ["none", "model"])
@pytest.mark.parametrize("case", [case for case in CASES if case.pipeline != "upscale"], ids=str)
def test_a_card_shows_its_pictures_and_draws_the_same(tiny_models: Path, case: Case, offload: str) -> None:
    """Previews come off the device, and the frames are those without them, with the nets in whichever memory."""
    with loaded(tiny_models, case.model, device=DEVICE, offload=offload) as backend:
        (before, unseen), (during, seen), (after, _) = (watch(backend, case, preview_steps=n) for n in (0, 1, 0))
    assert np.array_equal(before, during)
    assert np.array_equal(before, after)
    assert not unseen.shown
    assert seen.shown
    assert all(pixels.std() > 1 for pixels in seen.shown)


@pytest.mark.diffusers
def test_another_seed_is_far_away(tiny_models: Path) -> None:
    """What the bounds of rounding are held against."""
    for case in (*DRAWN, FILMED):
        with loaded(tiny_models, case.model, device="cpu") as backend:
            assert apart(render(backend, case), render(backend, case, seed=2)) > 2 * HALF, case


@pytest.mark.parametrize("device", [CUDA, CPU])
def test_out_of_memory_is_told_and_the_model_goes_on(
    tiny_models: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    """The allocator's refusal ends the job as `oom`; what the job held is free again, and the next job is the same."""
    import torch

    case = DRAWN[0]
    with loaded(tiny_models, case.model, device=device) as backend:
        before = render(backend, case)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "chunk", lambda *_, **__: _too_much(device))
            with pytest.raises(OutOfMemoryError, match="did not fit"):
                render(backend, case)
        gc.collect()
        backend.recover()
        assert np.array_equal(render(backend, case), before)


def _too_much(device: str) -> Any:
    """Asks the device's allocator for what it cannot have. The CPU's says so as another error, which is turned."""
    import torch

    if device == "cpu":
        raise torch.OutOfMemoryError
    return torch.empty(MUCH, dtype=torch.uint8, device=device)


@pytest.mark.gpu
def test_what_a_job_held_is_given_back(tiny_models: Path) -> None:
    """After a recovery the allocator holds what the weights take, not what the largest job took."""
    import torch

    case = DRAWN[0]
    with loaded(tiny_models, case.model, device="cuda") as backend:
        render(backend, case)
        backend.recover()
        held = torch.cuda.memory_reserved()
        render(backend, case, width=1024, height=1024)
        assert torch.cuda.memory_reserved() > held
        backend.recover()
        assert torch.cuda.memory_reserved() <= held + 64 * 2**20
        assert backend.memory_bytes() > held, "the peak stays known"


@pytest.mark.parametrize("device", [CUDA, CPU])
def test_a_card_is_measured(device: str) -> None:
    """Its rates are those of a device of this age: `runner card`."""
    from runner.models.card import measure

    card = measure(device)
    assert card.kind == device
    least = {"cuda": 1e12, "cpu": 1e8}[device]
    assert card.rates
    assert all(rate > least for rate in card.rates.values())
    if device == "cuda":
        assert card.driver
        assert card.memory_bytes > 2**30
