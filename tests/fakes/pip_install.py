"""Stands in for `python3 -m venv DIR` and for that environment's `pip install [--upgrade] '.[EXTRAS]'`.

Nothing is fetched: the commands of pyproject.toml are written, and they use this interpreter and this checkout.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.fakes.installation import checkout_environ, write_program


def main() -> None:
    """Makes an environment, or installs this project into it."""
    folder, *words = sys.argv[1:]
    programs = Path(folder) / "bin"
    if not words:
        programs.mkdir(parents=True)
        write_program(programs / "pip", f'exec "{sys.executable}" "{__file__}" "{folder}" "$@"')
        return
    assert words[0] == "install", words
    install(programs, [word for word in words[1:] if word != "--upgrade"])


def install(programs: Path, wanted: list[str]) -> None:
    """Writes the commands. Raises AssertionError for anything but extras that this project has."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    asked = re.fullmatch(r"\.\[([\w,]+)\]", " ".join(wanted))
    assert asked, wanted
    assert set(asked[1].split(",")) <= set(project["optional-dependencies"]), wanted
    for name, place in project["scripts"].items():
        module, _, function = place.partition(":")
        start = f"import sys; from {module} import {function}; sys.argv[0] = '{name}'; sys.exit({function}())"
        write_program(programs / name, f'exec env {checkout_environ()} "{sys.executable}" -c "{start}" "$@"')


if __name__ == "__main__":
    main()
