"""What a page of the documentation has an operator do: its blocks and the commands in its sentences, in order."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

FENCED = re.compile(r"^```[^\n]*\n.*?^```", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?:^\|.*\n?)+", re.MULTILINE)
PROGRAM = (
    r"(?:orchestrator|broadcaster|runner(?! failed)|sudo|systemctl|systemd-analyze|journalctl|sqlite3|printf|ssh"
    r"|scripts/\w+)"
)
STEP = re.compile(rf"^```([^\n]*)\n(.*?)^```|`({PROGRAM} [^`…\n]+)`", re.MULTILINE | re.DOTALL)
LINES, IN_A_SENTENCE = ("", "sh"), "sentence"
"""Of a step: a block of lines that are typed; a command in a sentence. Any other block has a language of its own."""


@dataclass(frozen=True)
class Step:
    """Something to do: `kind` is a block's language, or where a command stands."""

    kind: str
    text: str

    @property
    def lines(self) -> list[str]:
        """What is typed, a command each."""
        return commands(self.text) if self.kind in (*LINES, IN_A_SENTENCE) else []


@dataclass(frozen=True)
class Section:
    """A section with a heading of the second rank."""

    title: str
    text: str

    @property
    def steps(self) -> list[Step]:
        """Everything that can be executed in it."""
        found = (match.groups() for match in STEP.finditer(self.text))
        return [Step(IN_A_SENTENCE, inline) if inline else Step(kind.strip(), text) for kind, text, inline in found]

    def rows(self, head: str = "") -> list[list[str]]:
        """The cells of its tables, without their heads; of those alone whose first column has this name."""
        found: list[list[str]] = []
        for table in TABLE.findall(FENCED.sub("", self.text)):
            first, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
            found += rows if head in ("", first[0]) else []
        return found


@dataclass
class Page:
    """A page by the headings of its sections."""

    file: Path
    sections: dict[str, Section] = field(init=False)

    def __post_init__(self) -> None:
        parts = re.split(r"^## ", self.file.read_text("utf-8"), flags=re.MULTILINE)[1:]
        found = [Section(*part.split("\n", 1)) for part in parts]
        self.sections = {section.title: section for section in found}


def commands(text: str) -> list[str]:
    """The lines of a shell block; one goes on while a quotation is open or its end is a backslash."""
    found, open_line = [], ""
    for line in text.splitlines():
        open_line = f"{open_line}\n{line}" if open_line else line
        if line.endswith("\\") or not _closed(open_line):
            continue
        if open_line.strip() and not open_line.startswith("#"):
            found.append(open_line)
        open_line = ""
    return found


def _closed(line: str) -> bool:
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return False
    return True
