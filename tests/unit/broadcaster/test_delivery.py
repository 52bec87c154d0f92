"""What is taken of a node's outputs while they arrive."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from broadcaster.attempt import AttemptContext, Delivery
from broadcaster.media import MediaStore
from broadcaster.settings import Limits
from reelnet.errors import NodeError
from reelnet.jobs import Output
from reelnet.pipelines import MediaSpec

SILENT = MediaSpec("video", 64, 64, frames=2, fps=8)
SOUNDING = MediaSpec("video", 64, 64, frames=2, fps=8, sound="ab" * 32)
INPUTS_BYTES = 1000 + 24


def delivery(folder: Path, spec: MediaSpec, **limits: Any) -> Delivery:
    """Of a job with two inputs and one output."""
    inputs = [SimpleNamespace(ref=SimpleNamespace(size=size)) for size in (1000, 24)]
    request: Any = SimpleNamespace(id="j", promises=[spec], inputs=inputs)
    nobody: Any = None
    return Delivery(AttemptContext(nobody, MediaStore(folder), nobody, Limits(**limits)), request)


@pytest.mark.parametrize(
    ("spec", "limits", "most"),
    [
        (SILENT, {}, SILENT.most_bytes),
        (SOUNDING, {}, SOUNDING.most_bytes + INPUTS_BYTES),
        (SOUNDING, {"output_bytes": 5000}, 5000),
        (SOUNDING, {"output_bytes": SOUNDING.most_bytes + 1}, SOUNDING.most_bytes + 1),
    ],
)
async def test_an_output_has_room_for_its_pixels_and_for_a_sound_that_is_copied(
    tmp_path: Path, spec: MediaSpec, limits: dict[str, Any], most: int
) -> None:
    """As many bytes as the inputs have, where one has a sound; never more than the configured bound of an output."""

    def claimed(size: int) -> Output:
        return Output(0, "video/mp4", size, "", 1, None)

    delivery(tmp_path, spec, **limits).begin(claimed(most))
    with pytest.raises(NodeError, match=f"has at most {most}") as caught:
        delivery(tmp_path, spec, **limits).begin(claimed(most + 1))
    assert caught.value.code == "bytes"
