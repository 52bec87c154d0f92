"""What becomes of an unsafe picture: a table of the node's policy and the job's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import pytest

from reelnet.errors import RefusedError
from reelnet.parameters import SAFETY_POLICIES, SafetyPolicy, TextToImage
from runner.backend import Frames
from runner.safety import JUDGED_FRAMES, NodePolicy, Safety

NODE_POLICIES: tuple[NodePolicy, ...] = get_args(NodePolicy)
ORDER = ("off", "flag", "blur", "refuse")


@dataclass
class Marked:
    """Finds pictures whose first pixel is white; notes how many it was shown."""

    shown: list[int] = field(default_factory=list)

    def finds(self, frames: Frames) -> bool:
        self.shown.append(len(frames))
        return bool((frames[:, 0, 0] == 255).all(axis=-1).any())


def noise(frames: int = 1, unsafe: tuple[int, ...] = (0,)) -> Frames:
    """Pictures of noise, some of them unsafe."""
    drawn = np.random.default_rng(1).integers(0, 255, (frames, 64, 96, 3), np.uint8)
    drawn[list(unsafe), 0, 0] = 255
    return drawn


def asking(safety: SafetyPolicy, check: bool = True) -> TextToImage:
    return TextToImage(prompt="boat", safety=safety, safety_check=check)


@pytest.mark.parametrize("node", NODE_POLICIES)
@pytest.mark.parametrize("job", SAFETY_POLICIES)
@pytest.mark.parametrize("check", [True, False])
def test_the_strictest_of_node_and_job_decides(node: NodePolicy, job: SafetyPolicy, check: bool) -> None:
    """Blurred from `blur` on; refused by the node's word alone; `safety_check` matters where nobody says more."""
    drawn = noise()
    safety = Safety(node, Marked())
    if node == "refuse":
        with pytest.raises(RefusedError) as caught:
            safety.judge(drawn, asking(job, check))
        assert caught.value.code == "nsfw"
        return
    frames, nsfw = safety.judge(drawn, asking(job, check))
    strictest = max(node, job or "off", key=ORDER.index)
    looked = strictest != "off" and (check or (node, job) != ("flag", ""))
    assert nsfw is (True if looked else None)
    assert (frames is not drawn) is (strictest in ("blur", "refuse"))
    if frames is not drawn:
        assert frames.std() < drawn.std() / 4


@pytest.mark.parametrize("node", ["flag", "blur", "refuse"])
@pytest.mark.parametrize("job", SAFETY_POLICIES)
def test_what_is_clean_is_left_alone(node: NodePolicy, job: SafetyPolicy) -> None:
    """And is said to be clean."""
    drawn = noise(unsafe=())
    frames, nsfw = Safety(node, Marked()).judge(drawn, asking(job))
    assert frames is drawn
    assert nsfw is False


@pytest.mark.parametrize("policy", ["off", "flag"])
def test_without_a_checker_nobody_knows(policy: NodePolicy) -> None:
    """Nothing is offered, and a picture is not called clean."""
    safety = Safety(policy)
    assert safety.features == ()
    assert safety.judge(noise(), asking(""))[1] is None
    assert Safety("flag", Marked()).features == ("safety",)


@pytest.mark.parametrize("frames", [1, 2, 3, 9, 10, 14, 25, 81, 121])
@pytest.mark.parametrize("place", [lambda n: 0, lambda n: (n - 1) // 2 if n % 2 else 0, lambda n: n - 1])
def test_a_clip_is_judged_by_some_of_its_frames(frames: int, place: Callable[[int], int]) -> None:
    """Its first, its last and its middle one among them; one that is unsafe has every frame blurred."""
    checker, drawn = Marked(), noise(frames, (place(frames),))
    blurred, nsfw = Safety("blur", checker).judge(drawn, asking(""))
    assert nsfw is True
    assert checker.shown == [min(frames, JUDGED_FRAMES)]
    assert blurred.shape == drawn.shape
    assert all(after.std() < before.std() / 4 for before, after in zip(drawn, blurred, strict=True))
