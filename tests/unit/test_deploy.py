"""What an operator copies from deploy/ is taken by the programs that read it, and fits to the settings."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from broadcaster.settings import BroadcasterSettings
from orchestrator.settings import OrchestratorSettings
from reelnet.settings import ComponentSettings, load
from tests.programs import needs

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
SETTINGS: dict[str, type[ComponentSettings]] = {
    "broadcaster": BroadcasterSettings,
    "orchestrator": OrchestratorSettings,
}
PROGRAM = re.compile(r"/opt/reelnet/bin/(\w+) serve --config /etc/reelnet/(\w+)\.yaml")
EXPOSURE = re.compile(r"Overall exposure level for \S+: (\d+\.\d+)")
MOST_EXPOSED = 2.0


class Unit(configparser.RawConfigParser):
    """A unit file; of a key that stands twice the last one counts."""

    def __init__(self, *paths: Path) -> None:
        super().__init__(strict=False, interpolation=None)
        self.read(paths)

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.mark.parametrize("file", sorted(DEPLOY.glob("orchestrator*.yaml")), ids=lambda file: file.name)
def test_every_example_of_a_node_loads(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is a configuration that the orchestrator takes."""
    monkeypatch.delenv("REELNET_ORCHESTRATOR_NAME", raising=False)
    assert load(OrchestratorSettings, file).models


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_fits_to_its_program(unit: Path) -> None:
    """It starts the right program, waits for the drain, and does not start again with a faulty configuration."""
    service = Unit(unit)["Service"]
    component = unit.stem.removeprefix("reelnet-")
    match = PROGRAM.fullmatch(service["ExecStart"])
    assert match
    assert match.groups() == (component, component)
    drain_s = SETTINGS[component]().limits.drain_s  # type: ignore[attr-defined]
    assert int(service["TimeoutStopSec"]) > drain_s
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert service["OOMPolicy"] == "continue"
    assert service["RestartPreventExitStatus"] == "2"
    assert "REELNET_HOME=/var/lib/" + service["StateDirectory"] in service["Environment"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_reload_is_a_signal_to_the_program(unit: Path) -> None:
    """Both components read their files again then; the shell has the command, which a small system lacks."""
    assert Unit(unit)["Service"]["ExecReload"] == "/bin/sh -c 'kill -HUP $MAINPID'"


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units with their drop-ins, with programs that every machine has."""
    needs("systemd-analyze")
    folder = tmp_path_factory.mktemp("units")
    for unit in UNITS:
        (folder / unit.name).write_text(PROGRAM.sub("/bin/true", unit.read_text("utf-8")), "utf-8")
    for drop_in in DEPLOY.glob("*.service.d"):
        shutil.copytree(drop_in, folder / drop_in.name)
    return folder


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_unit(units: Path, unit: Path) -> None:
    """Without a word: an unknown key or value would be one."""
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(units / unit.name)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout + run.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_unit_is_hardened(units: Path, unit: Path) -> None:
    """systemd's own measure of what a service could reach, 0 to 10."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(units / unit.name)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    exposure = EXPOSURE.search(run.stdout)
    assert exposure, run.stdout + run.stderr
    assert float(exposure.group(1)) <= MOST_EXPOSED


def test_the_compose_file_fits_to_its_programs() -> None:
    """Its services run what the image has, on the host's network, hardened; the state has one path on both sides."""
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for component in SETTINGS:
        service = document["services"][component]
        assert service["command"] == [component, "serve", "--config", f"/etc/reelnet/{component}.yaml"]
        assert (service["network_mode"], service["read_only"], service["cap_drop"]) == ("host", True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        state = service["environment"]["REELNET_HOME"]
        assert f"{state}:{state}" in service["volumes"]
        grace_s = 60 * int(service["stop_grace_period"].removesuffix("m"))
        assert grace_s > SETTINGS[component]().limits.drain_s  # type: ignore[attr-defined]
    sockets = [name for name, service in document["services"].items() if "docker.sock" in str(service["volumes"])]
    assert sockets == ["orchestrator"], "nobody else may have the engine's socket"
