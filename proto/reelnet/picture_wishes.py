"""What a request may say of its input picture: parameters that act before any node is asked.

A broadcaster does what they ask for while it reads the picture. A node gets the result, and the ticket has the
result's digest. So no ticket, no schema and no node knows these names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from reelnet.pipelines import Pipeline

_NAMED = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "gray": (128, 128, 128)}
_PATTERN = r"^(|#[0-9a-fA-F]{6}|white|black|grey|gray)$"


def _colour(value: object) -> object:
    """A colour as it is written; capital letters count as small ones. Raises ValueError for any other text."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(_PATTERN, text := value.strip().lower()):
        raise ValueError("expected #rrggbb, white, black or grey")
    return text


Background = Annotated[
    str,
    BeforeValidator(_colour),
    Field(
        json_schema_extra={"pattern": _PATTERN},
        description="What a transparent picture is laid on: #rrggbb, white, black or grey. Empty: white; upscale keeps "
        "the transparency, and lays it on white for JPEG alone.",
    ),
]
FitInput = Annotated[
    bool,
    Field(description="Make a picture smaller that has more pixels than the pipeline takes; its aspect stays."),
]


class PictureWishes(BaseModel):
    """What may be said of any input picture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    background: Background = ""

    @model_validator(mode="before")
    @classmethod
    def _drop_empty(cls, raw: Any) -> Any:
        """An absent value arrives as an empty one from forms."""
        return {name: value for name, value in raw.items() if value not in ("", None)}

    @property
    def ground(self) -> tuple[int, int, int]:
        """The colour that transparency is laid on, red, green and blue."""
        if not self.background.startswith("#"):
            return _NAMED[self.background or "white"]
        return tuple(bytes.fromhex(self.background[1:]))  # type: ignore[return-value]

    @property
    def fits(self) -> bool:
        """Whether a picture that is too large is to be made smaller."""
        return False


class FittedWishes(PictureWishes):
    """What may be said of a picture from whose size the job's work follows."""

    fit_input: FitInput = False

    @property
    def fits(self) -> bool:
        """Whether a picture that is too large is to be made smaller."""
        return self.fit_input


def wishes_of(pipeline: Pipeline) -> type[PictureWishes] | None:
    """What a request for the pipeline may say of its picture; None where it has none."""
    if "image" not in pipeline.inputs:
        return None
    return FittedWishes if pipeline.sized_by_input else PictureWishes


def wish_names(pipeline: Pipeline) -> tuple[str, ...]:
    """The names of what a request for the pipeline may say of its picture."""
    kind = wishes_of(pipeline)
    return tuple(kind.model_fields) if kind else ()


def taken_wishes(pipeline: Pipeline, fields: dict[str, Any]) -> PictureWishes:
    """The wishes among a request's fields, which are taken out of them. Raises pydantic's ValidationError."""
    kind = wishes_of(pipeline)
    if kind is None:
        return PictureWishes()
    found: Mapping[str, Any] = {name: fields.pop(name) for name in kind.model_fields if name in fields}
    return kind.model_validate(found)
