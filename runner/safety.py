"""What becomes of a picture or clip that a safety checker finds unsafe: the strictest of node and job decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from PIL import Image, ImageFilter

from reelnet.errors import RefusedError
from reelnet.parameters import SAFETY, Params, strictest
from runner.backend import Frames

NodePolicy = Literal["off", "flag", "blur", "refuse"]
"""What the operator has set."""
JUDGED_FRAMES = 9
"""Frames of a clip that are looked at, evenly apart: an odd number has the middle one among them."""
_BLUR_SHARE = 1 / 16
"""Radius of the blur, as a share of the longer side: nothing smaller than a tenth of the picture is left."""


class Checker(Protocol):
    """Who knows what is unsafe."""

    def finds(self, frames: Frames) -> bool:
        """Whether one of these pictures is unsafe."""


@dataclass(frozen=True, slots=True)
class Safety:
    """The node's policy. Without a `checker` nobody looks, and nobody knows."""

    policy: NodePolicy = "off"
    checker: Checker | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """What a pipeline with this checker offers beside itself."""
        return (SAFETY,) if self.checker else ()

    def judge(self, frames: Frames, params: Params) -> tuple[Frames, bool | None]:
        """A picture or clip as it may be delivered, and whether it was found unsafe; None: nobody looked.

        Where the job alone says `refuse` it is blurred: its broadcaster withholds it, and no other node has to draw
        it again to find the same. Raises RefusedError when the node says `refuse`.
        """
        wanted = strictest("" if self.policy == "off" else self.policy, params.safety)
        unasked = wanted == "flag" and not (params.safety or params.safety_check)
        if self.checker is None or not wanted or unasked:
            return frames, None
        unsafe = self.checker.finds(_judged(frames))
        if unsafe and self.policy == "refuse":
            raise RefusedError("this node's safety checker refuses the result; change prompt or seed", code="nsfw")
        return (_blurred(frames), True) if unsafe and wanted != "flag" else (frames, unsafe)


def _judged(frames: Frames) -> Frames:
    """The first frame, the last one, and some between."""
    if len(frames) <= JUDGED_FRAMES:
        return frames
    apart = np.linspace(0, len(frames) - 1, JUDGED_FRAMES).round().astype(int)
    return np.ascontiguousarray(frames[apart])


def _blurred(frames: Frames) -> Frames:
    radius = max(frames.shape[1:3]) * _BLUR_SHARE
    return np.stack([np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(radius))) for frame in frames])
