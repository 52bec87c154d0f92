"""The tables and names of the handbook are those of the programs; none of a whole table's is missing there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

import broadcaster.cli
import broadcaster.operator.changes
import orchestrator.changes
import orchestrator.cli
import runner.cli
from broadcaster.journal import Journal
from broadcaster.journal_schema import metadata
from broadcaster.keys import ID_CHARS, MAX_NAME_CHARS
from broadcaster.media import MAX_OUTPUT_BYTES
from broadcaster.operator.doctor_checks import CHECKS as BROADCASTER_CHECKS
from broadcaster.settings import BroadcasterSettings
from orchestrator.doctor_checks_models import CHECKS as NODE_CHECKS
from orchestrator.process_engine import LOG_KEEP_BYTES
from orchestrator.settings import OrchestratorSettings
from reelnet import lifecycle
from reelnet.errors import HTTP_STATUS
from reelnet.identity import KEY_BYTES
from reelnet.rpc import CHUNK_BYTES, GRPC_STATUS
from reelnet.settings import ComponentSettings, Listener
from tests.fakes.page import Page
from tests.unit.test_docs import ROOT, SETTINGS, configuration_script

PAGE = Page(ROOT / "docs" / "operate.md")
CODE = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"--[a-z][a-z-]+")
EVERYWHERE = {"--config", "--name"}
"""What the text below the table says of every command but `init`."""
PROGRAMS = {"orchestrator": orchestrator.cli.cli, "broadcaster": broadcaster.cli.cli}
METRIC = re.compile(r"\breelnet_[a-z_]*[a-z]\b")
DIFFERS = re.compile(r"…|\b\d+\b(?: GiB)?|\b[AB]\b|\bnode (?=named)|'x'|psycopg|, ")
"""What of a message differs from case to case, or is put in from elsewhere."""
OF_THE_SYSTEM = {"Connection refused"}


@cache
def sources() -> str:
    """The components' text, with the joints of split messages taken out."""
    files = [path for name in ("broadcaster", "orchestrator", "proto/reelnet") for path in (ROOT / name).rglob("*.py")]
    text = "\n".join(path.read_text("utf-8") for path in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def rows(title: str, head: str = "") -> list[list[str]]:
    """The rows of a section's tables."""
    return PAGE.sections[title].rows(head)


def commands(command: Any, words: str) -> Iterator[tuple[str, set[str]]]:
    """Each command below this one, with its options' names; of a yes and a no the one that is no default."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from commands(below, f"{words} {name}")
    else:
        options = [option for option in command.params if option.param_type_name == "option"]
        yield words, {(o.secondary_opts if o.default is True else o.opts)[0] for o in options}


def documented() -> dict[str, set[str]]:
    """The options of each command of the two components, as the table has them."""
    found: dict[str, set[str]] = {}
    for first, text in rows("Commands"):
        names = [re.sub(r" [A-Z\[].*", "", name) for name in CODE.findall(first)]
        program = names[0].split()[0]
        if program not in PROGRAMS:
            continue
        for name in names:
            own = text if len(names) == 1 else next(iter(re.findall(rf"`{name.split()[-1]}` has (\S+)", text)), "")
            found[name if name.startswith(program) else f"{program} {name}"] = set(OPTION.findall(own))
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_table_has_each_command_with_its_flags(program: str) -> None:
    """No command and no flag is missing there, and none is there that is not."""
    there = dict(commands(get_command(PROGRAMS[program]), program))
    told = {name: flags for name, flags in documented().items() if name.startswith(program)}
    assert set(told) == set(there)
    for name, flags in there.items():
        assert told[name] | (set() if name.endswith(" init") else EVERYWHERE) == flags, name


def test_the_runners_commands_are_there() -> None:
    """Of the runner's the table has the most needed ones."""
    for first, _ in rows("Commands"):
        names = CODE.findall(first)
        if not names[0].startswith("runner "):
            continue
        base = names[0].split()[1:-1]
        for name in names:
            words = [word for word in name.split() if word.islower() and not word.startswith("-")]
            words = words[1:] if words[0] == "runner" else [*base, *words]
            said = CliRunner().invoke(runner.cli.cli, [*words, "--help"], terminal_width=200)
            assert said.exit_code == 0, name
            assert all(option in said.output for option in OPTION.findall(name))


def test_the_ports_are_the_defaults() -> None:
    """Each listener of both components has its row, on loopback."""
    told = {tuple(re.sub("`", "", name).split()): address for address, name, _ in rows("Ports")}
    kinds: dict[str, type[ComponentSettings]] = {
        "broadcaster": BroadcasterSettings,
        "orchestrator": OrchestratorSettings,
    }
    there = {
        (component, name): f"{listener.host}:{listener.port}"
        for component, kind in kinds.items()
        for name, listener in kind()
        if isinstance(listener, Listener)
    }
    assert told == there


@pytest.mark.parametrize(
    ("title", "component", "live"),
    [
        ("Reloading", "orchestrator", orchestrator.changes.LIVE),
        ("Reloading a broadcaster", "broadcaster", broadcaster.operator.changes.LIVE),
    ],
)
def test_what_a_reload_takes_over_is_named(title: str, component: str, live: Sequence[str]) -> None:
    """Each setting that applies at once, and no other one."""
    text = " ".join(PAGE.sections[title].text.split())
    said = re.search(r"again\. (.*?) apply at once", text)
    assert said
    named = set(CODE.findall(said[1])) & set(SETTINGS[component].model_fields)
    assert named == set(live)


FIGURES = {
    r"A check has a bound \((\d+) to \d+ s\)": min(check.limit_s for check in (*NODE_CHECKS, *BROADCASTER_CHECKS)),
    r"A check has a bound \(\d+ to (\d+) s\)": max(check.limit_s for check in (*NODE_CHECKS, *BROADCASTER_CHECKS)),
    r"first (\d+) hexadecimal characters": ID_CHARS,
    r"no space, at most (\d+) characters": MAX_NAME_CHARS,
    r"rows wait in memory \(([\d,]+)\)": inspect.signature(Journal).parameters["capacity"].default,
    r"begun anew beyond (\d+) MiB": LOG_KEEP_BYTES // 2**20,
    r"frames carry (\d+) KiB": CHUNK_BYTES // 1024,
    r"never more than (\d+) MiB": MAX_OUTPUT_BYTES // 2**20,
    r"`rpc\.challenge_s` \((\d+) s\)": OrchestratorSettings().rpc.challenge_s,
    r"identity\.key` \| the private key, (\d+) bytes": KEY_BYTES,
}
"""What a sentence says in figures, and what the programs have there."""


@pytest.mark.parametrize("sentence", FIGURES)
def test_a_figure_is_the_programs(sentence: str) -> None:
    """Constants and defaults that sentences name."""
    said = re.search(sentence, " ".join(PAGE.file.read_text("utf-8").split()))
    assert said
    assert float(said[1].replace(",", "")) == FIGURES[sentence]


def test_the_columns_that_are_named_are_the_journals() -> None:
    """Its tables too."""
    text = PAGE.sections["Journal"].text
    tables, described = text.partition("Tables ")[2].split(": ids", 1)
    assert set(CODE.findall(tables)) == set(metadata.tables)
    named = set(CODE.findall(described.partition("never a prompt")[0]))
    assert len(named) == 4
    assert named <= {column.name for table in metadata.tables.values() for column in table.c}


def test_prometheus_reads_the_ports_of_metrics() -> None:
    """What the page has an operator copy: its targets, and a time-out above that of the runners' answers."""
    copied = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text("utf-8"))
    targets = [
        target for job in copied["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    ]
    assert targets == [address for address, name, _ in rows("Ports") if "`metrics`" in name]
    assert float(copied["global"]["scrape_timeout"].removesuffix("s")) > OrchestratorSettings().limits.metrics_s


@pytest.mark.parametrize(
    ("title", "checks"), [("The doctor", NODE_CHECKS), ("A broadcaster in five minutes", BROADCASTER_CHECKS)]
)
def test_the_doctors_table_has_each_check(title: str, checks: Sequence[Any]) -> None:
    """Every check, and no other one but that of a faulty file."""
    told = [name.strip() for first, _ in rows(title, "check") for name in first.split(",")]
    assert sorted(told) == sorted(["configuration", *(check.name for check in checks)])


def test_the_exit_codes_are_those_of_the_programs() -> None:
    """Each code that a component ends with has its row; tests/integration/test_operate.py has a command for each."""
    there = {value for name, value in vars(lifecycle).items() if name.startswith("EXIT_")}
    assert {int(code) for code, _ in rows("Signals and exit codes", "code")} == there


def test_the_failure_classes_are_those_of_the_tree() -> None:
    """By name, with both statuses, in the tree's order."""
    told = [(row[0].strip("`"), row[1].split(",")[0], int(row[2].split()[0])) for row in rows("Failure classes")]
    assert told == [(kind.value, GRPC_STATUS[kind].name, status) for kind, status in HTTP_STATUS.items()]


def test_every_metric_that_is_named_exists() -> None:
    """docs/metrics.md is made from the definitions, so that a name that is there is one."""
    known = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    named = set(METRIC.findall(PAGE.file.read_text("utf-8")))
    assert len(named) > 3
    assert not {name for name in named if name not in known}


def test_every_key_with_a_dot_is_one() -> None:
    """`limits.stall_s` and its like stand in the reference that is made from the settings."""
    parts = {name for kind in SETTINGS.values() for name in kind.model_fields}
    keys = {key for key in CODE.findall(PAGE.file.read_text("utf-8")) if re.fullmatch(r"[a-z_]+\.[a-z_]+", key)}
    keys = {key for key in keys if key.split(".")[0] in parts and not key.endswith(".db")}
    assert len(keys) > 20
    known = configuration_script().document()
    assert not {key for key in keys if f"| `{key}` |" not in known}


@pytest.mark.parametrize("title", ["When something is wrong", "Databases", "The nodes of a pool"])
def test_every_message_that_is_quoted_is_one_of_the_programs(title: str) -> None:
    """Its words stand in the code, but for those that differ from case to case."""
    quoted = [text for first, *_ in rows(title) for text in re.findall(r"`([^`]+)`|\"([^\"]+)\"", first)]
    parts = {part.strip() for pair in quoted for part in DIFFERS.split("".join(pair)) if part.strip()}
    assert len(parts) > 4
    assert not {part for part in parts - OF_THE_SYSTEM if part not in sources()}


def test_the_endpoints_are_those_of_the_metrics_port() -> None:
    """`/livez`, `/readyz` and `/metrics`."""
    served = set(re.findall(r'"(/(?:livez|readyz|metrics))"', sources()))
    told = {path for row in rows("Ports") if "`metrics`" in row[1] for path in CODE.findall(row[2])}
    assert told == served == {"/livez", "/readyz", "/metrics"}
