"""What a diffusers class takes of a job's parameters."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers


def test_every_strength_runs_the_steps_of_its_work() -> None:
    """For the classes that count the steps to run, and for those that count the steps to leave out."""
    from runner.pipelines.arguments import whole_steps

    for steps in range(1, 201):
        for percent in range(1, 101):
            run = max(1, int(steps * (percent / 100)))
            up = whole_steps(percent / 100, steps, counts_left_out=False)
            assert min(int(steps * up), steps) == run
            down = whole_steps(percent / 100, steps, counts_left_out=True)
            assert int(max(steps - min(steps * down, steps), 0)) == steps - run
            assert 0 < down < up <= 1


def test_a_class_has_what_its_family_s_jobs_state() -> None:
    """Or a strength would be paid for and dropped in silence: only InstructPix2Pix's jobs have none."""
    from runner.pipelines.arguments import Arguments

    names = {"prompt", "num_inference_steps", "generator", "callback_on_step_end", "image", "image_guidance_scale"}
    edits = Arguments("StableDiffusionInstructPix2PixPipeline", frozenset(names))
    assert edits.missing("image-to-image") == []
    assert Arguments("AnotherPipeline", frozenset(names)).missing("image-to-image") == ["strength"]


@pytest.mark.parametrize("seed", [2**32, 2**32 + 1, 2**53 - 65])
def test_a_large_seed_fills_the_whole_generator(seed: int) -> None:
    """Torch draws what numpy's Mersenne Twister does from the same words: its saved state is laid out as it was."""
    import numpy as np
    import torch

    from runner.pipelines.family import noise

    drawn = torch.empty(1000, dtype=torch.int64).random_(0, 2**32, generator=noise(seed)).numpy()
    words = np.random.MT19937(np.random.SeedSequence(seed)).random_raw(2001)  # numpy begins one word earlier
    assert (drawn == words[2::2].astype(np.int64)).all()


def test_a_small_seed_is_torch_s_own() -> None:
    """What a plain script draws with that seed is drawn here."""
    import torch

    from runner.pipelines.family import noise

    plain = torch.randn(8, generator=torch.Generator("cpu").manual_seed(2**32 - 1))
    assert torch.equal(torch.randn(8, generator=noise(2**32 - 1)), plain)
