"""How a clip's pictures are to be turned and mirrored before they are shown, by its display matrix."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from av.video.frame import VideoFrame

    Pixels = TypeVar("Pixels", bound=npt.NDArray[np.uint8])

_OFF_AXIS = 0.01
"""How far a matrix may be from right angles, in parts of its own size."""


class SkewError(ValueError):
    """The pictures are to be turned by no right angle; the text says by how much."""


@dataclass(frozen=True, slots=True)
class Stand:
    """What is done to a stored picture: its sides are swapped, and then it is mirrored left to right and top to bottom.

    All eight ways in which a camera can be held, and mirrored, are one of these.
    """

    swapped: bool = False
    left_right: bool = False
    top_bottom: bool = False

    @property
    def upright(self) -> bool:
        """Whether pictures are shown as they are stored."""
        return not (self.swapped or self.left_right or self.top_bottom)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height as they are seen."""
        return (height, width) if self.swapped else (width, height)

    def shown(self, pixels: Pixels) -> Pixels:
        """A picture of shape (height, width, …) as it is seen; a view."""
        seen = pixels.swapaxes(0, 1) if self.swapped else pixels
        return seen[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]  # type: ignore[return-value]


def stand_of(frame: VideoFrame) -> Stand:
    """How the container wants a frame shown. Raises SkewError."""
    from av.sidedata.sidedata import Type

    held: Any = frame.side_data  # PyAV's own types take it for a mapping of names
    matrix = held.get(Type.DISPLAYMATRIX)
    return _stand(bytes(matrix)) if matrix is not None else Stand()


def _stand(matrix: bytes) -> Stand:
    """Of nine numbers in this machine's order: a point (x, y) goes to (a x + c y, b x + d y)."""
    a, b, _, c, d = struct.unpack_from("=5i", matrix)
    straight, crossed = max(abs(a), abs(d)), max(abs(b), abs(c))
    if min(straight, crossed) > _OFF_AXIS * max(straight, crossed):
        angle = -math.degrees(math.atan2(b, a))
        raise SkewError(f"the clip is to be turned by {angle:.0f}°; only right angles are taken")
    if not straight and not crossed:  # it says nothing
        return Stand()
    return Stand(False, a < 0, d < 0) if straight > crossed else Stand(True, c < 0, b < 0)
