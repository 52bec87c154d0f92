"""Warnings: what an answer says of a job that is done, but not in every point as it was asked.

A parameter changes the output, or it is refused by its name, or a warning names it. `Pipeline.warns` says which of
these codes a family of models can give.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from reelnet.errors import printable

MAX_WARNINGS = 16
"""Most warnings of one answer."""
MAX_WARNING_CHARS = 400
"""Characters of one warning's text."""

PROMPT_CUT, PLAIN_BRACKETS, GUIDANCE_OFF, NOT_USED = "prompt_cut", "plain_brackets", "guidance_off", "not_used"
SCHEDULER_SETTING, NO_PREVIEW = "scheduler_setting", "no_preview"
PROFILE_IGNORED, HIGHLIGHTS_CUT = "profile_ignored", "highlights_cut"
SOUND_DROPPED, TRACKS_DROPPED = "sound_dropped", "tracks_dropped"
CODES: dict[str, str] = {
    PROMPT_CUT: "A text encoder reads fewer tokens than the prompt has. The message quotes the last words it read.",
    PLAIN_BRACKETS: "Brackets and numbers such as `(fox:1.3)` weigh no words here. The model reads them as plain text.",
    GUIDANCE_OFF: "Guidance is off for this job, and the parameter acts by guidance alone.",
    NOT_USED: "A model of this class does not use the parameter.",
    SCHEDULER_SETTING: "The scheduler that was asked for does not know a setting of the model's own scheduler.",
    NO_PREVIEW: "Previews were asked for, and none was made.",
    PROFILE_IGNORED: "The picture's colour profile is broken or unknown. Its colours were taken as sRGB.",
    HIGHLIGHTS_CUT: "The picture has a high dynamic range. Light brighter than white was cut.",
    SOUND_DROPPED: "The clip's sound is of a kind that is not read. The result has none.",
    TRACKS_DROPPED: "The clip has further tracks of sound, pictures or subtitles. Only the first of each was kept.",
}
"""Each code of a warning, and its meaning."""


@dataclass(frozen=True, slots=True)
class JobWarning:
    """One warning. `message` is a sentence for people. `parameter` names a parameter or an input, and may be empty."""

    code: str
    message: str
    parameter: str = ""

    def body(self) -> dict[str, str]:
        """As JSON has it."""
        return {"code": self.code, "message": self.message, "parameter": self.parameter}


def known_warnings(
    found: Iterable[JobWarning], codes: Collection[str], names: Collection[str]
) -> tuple[JobWarning, ...]:
    """The warnings of a peer with one of these codes: short, printable, each once, at most MAX_WARNINGS.

    `names`: parameters and inputs; any other name is left empty.
    """
    told = (
        JobWarning(
            each.code, printable(each.message, MAX_WARNING_CHARS), each.parameter if each.parameter in names else ""
        )
        for each in found
        if each.code in codes
    )
    return tuple(dict.fromkeys(told))[:MAX_WARNINGS]
