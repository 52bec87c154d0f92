"""What the synthetic backend pretends to have beside a model, by a runner's other settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from reelnet.errors import UnsupportedError
from reelnet.parameters import Params
from reelnet.pipelines import did_you_mean
from runner.backend import Frames
from runner.safety import NodePolicy, Safety
from runner.settings import Lora, RunnerSettings
from runner.video_codecs import ClipOutput

UNCHECKED = frozenset({"upscale", "upscale-video", "frame-interpolation"})
"""Pipelines in which no model has a safety checker, so that none is pretended."""


@dataclass(frozen=True, slots=True)
class SyntheticExtras:
    """How clips are written, the policy for what is found unsafe, and LoRAs: id → the sha256 (hex) that is told."""

    output: ClipOutput = field(default_factory=ClipOutput)
    safety: NodePolicy = "off"
    loras: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: RunnerSettings) -> SyntheticExtras:
        """As the settings of a runner say."""
        return cls(settings.clip_output, settings.safety, pretended(settings.loras))

    def judging(self, pipeline: str, unsafe: bool = False) -> Safety:
        """What judges a pipeline's outputs, and finds all of them unsafe or none."""
        if self.safety == "off" or pipeline in UNCHECKED:
            return Safety()
        return Safety(self.safety, _Finding(unsafe))

    def used_loras(self, params: Params) -> str:
        """A job's LoRAs with their strengths as a text, empty for none. Raises UnsupportedError for a foreign one."""
        asked: Mapping[str, float] = getattr(params, "loras", {})
        used = {name: strength for name, strength in sorted(asked.items()) if strength}
        for name in used:
            if name not in self.loras:
                message = f"loras: this node does not serve {name!r}{did_you_mean(name, self.loras)}"
                raise UnsupportedError(message, code="lora", loc=("loras", name))
        return f":{used}" if used else ""


@dataclass(frozen=True, slots=True)
class _Finding:
    """In the place of a safety checker."""

    unsafe: bool

    def finds(self, frames: Frames) -> bool:
        return self.unsafe


def pretended(loras: tuple[Lora, ...]) -> dict[str, str]:
    """LoRAs that need no file: id → a digest that depends on the folder's name alone."""
    return {lora.advertised_id: hashlib.sha256(f"synthetic:{lora.folder}".encode()).hexdigest() for lora in loras}
