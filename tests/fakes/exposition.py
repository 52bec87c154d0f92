"""What a component's `/metrics` says, to ask sums of it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.programs import needs


@dataclass(frozen=True)
class Exposition:
    """One answer of a `/metrics`."""

    text: str

    @property
    def samples(self) -> list[Sample]:
        """Every sample in it."""
        return [sample for family in text_string_to_metric_families(self.text) for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of a metric over the series that have these labels; `class_` is the label `class`."""
        wanted = {label.rstrip("_"): value for label, value in labels.items()}.items()
        return sum(s.value for s in self.samples if s.name == name and wanted <= s.labels.items())

    def families(self) -> set[str]:
        """The names on the TYPE lines, which have to stand there once each."""
        names = [line.split()[2] for line in self.text.splitlines() if line.startswith("# TYPE ")]
        assert len(names) == len(set(names)), "a family stands twice in one answer"
        return set(names)


async def scrape(port: int) -> Exposition:
    """What the listener on this port says now."""
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.status_code == 200, answer.text
    return Exposition(answer.text)


def promtool_complaints(text: str) -> str:
    """What `promtool check metrics` has to say about a text; empty when it is content. Skips the test without it."""
    needs("promtool")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text.encode(), capture_output=True, timeout=30, check=False
    )
    said = (done.stdout + done.stderr).decode()
    return said if said or done.returncode == 0 else f"exit code {done.returncode}"
