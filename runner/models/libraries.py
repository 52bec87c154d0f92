"""How the model libraries are set up in this process."""

from __future__ import annotations

from importlib.metadata import version

import diffusers
import transformers


def quiet_libraries() -> None:
    """No progress bars and no advice on a node's log."""
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def library_versions() -> dict[str, str]:
    """What draws the pictures, by name."""
    return {name: version(name) for name in ("torch", "diffusers", "transformers", "spandrel")}
