"""A FILM network with narrow layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.models import film_folder
from runner.models.film import Film, FilmShape

SHAPE = FilmShape(filters=4, flow_filters=(4, 4, 8, 8))


class TinyFilm:
    """Saves itself as diffusers' pipelines do. `filled` gives a module its weights."""

    def __init__(self, filled: Callable[[Any], Any]) -> None:
        self._film = filled(Film(SHAPE))

    def save_pretrained(self, folder: Path, *, safe_serialization: bool = True) -> None:
        """Writes the model's folder."""
        assert safe_serialization, "there is no other way"
        film_folder.write(folder, SHAPE, self._film.state_dict())
