"""The operator's commands, against a scripted node behind a true control socket."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from typer.testing import CliRunner, Result

from orchestrator.cli import cli
from orchestrator.commands import setup
from orchestrator.settings import OrchestratorSettings
from orchestrator.status import ModelStatus, from_document
from reelnet import telemetry
from reelnet.errors import ConfigError
from reelnet.identity import Identity
from reelnet.settings import load
from tests.fakes.controlled import STATUS, ScriptedNode, served
from tests.fakes.models import model_folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder and a models' folder of the test's own; the node's log is not the command's output."""
    monkeypatch.setenv("REELNET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REELNET_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)
    telemetry.configure("orchestrator", "error")
    yield tmp_path / "home"
    structlog.reset_defaults()


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, catch_exceptions=False)


@contextmanager
def node(home: Path, name: str = "default", **state: Any) -> Iterator[ScriptedNode]:
    """A node of this name that runs."""
    with served(ScriptedNode(**state), home / "orchestrator" / name) as scripted:
        yield scripted


def test_every_command_has_an_example() -> None:
    """Its help shows how it is used."""
    for words in ("init", "doctor", "serve", "id", "status", "models", "logs", "drain", "resume", "reload"):
        assert f"Example: orchestrator {words}" in run(words, "--help").output
    assert "Example: orchestrator config check" in run("config", "check", "--help").output


@pytest.mark.parametrize("command", ["status", "drain", "resume", "reload", "logs"])
def test_without_a_node(command: str) -> None:
    """One line that says how to start it, and the code of what cannot start."""
    got = run(command, "--name", "b")
    assert got.exit_code == 3
    assert got.stderr.startswith("error: no node named 'b' runs with the state folder ")
    assert got.stderr.endswith("start it with: orchestrator serve --name b\n")
    assert got.stdout == ""


def test_status(home: Path) -> None:
    """For people, and for programs."""
    with node(home):
        assert "0-acme-sdxl-0" in run("status").stdout
        assert from_document(json.loads(run("status", "--json").stdout)) == STATUS


def test_the_configuration_names_the_node(home: Path, tmp_path: Path) -> None:
    """Its name and its state folder, as for `serve`."""
    (tmp_path / "x.yaml").write_text(f"name: gpu-box\nhome: {tmp_path}/other\n")
    with node(tmp_path / "other", "gpu-box"):
        assert run("status", "--config", "x.yaml").exit_code == 0
        assert run("status").exit_code == 3


class Interrupting(ScriptedNode):
    """Presses Ctrl-C when it is asked for its status, or for a log, the n-th time."""

    left: int = 4

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def status(self) -> Any:
        self._count()
        return super().status()


def test_watching_goes_on_until_ctrl_c(home: Path) -> None:
    """A line of JSON for each look; Ctrl-C is no failure."""
    with served(Interrupting(), home / "orchestrator" / "default"):
        got = run("status", "0.2", "--watch", "--json")
    assert got.exit_code == 0
    lines = got.stdout.splitlines()
    assert 2 <= len(lines) <= 4
    assert all(json.loads(line)["node_id"] == STATUS.node_id for line in lines)


def test_watching_a_node_that_goes_away(home: Path) -> None:
    """It is waited for: who looks at an upgrade sees both ends of it."""
    failed = 0

    class Failing(Interrupting):
        def status(self) -> Any:
            nonlocal failed
            self._count()
            if self.left == 2:
                failed += 1
                raise RuntimeError("gone for once")
            return ScriptedNode.status(self)

    with served(Failing(), home / "orchestrator" / "default"):
        got = run("status", "0.2", "--watch")
    assert (got.exit_code, failed) == (0, 1)
    assert "error: a fault of the program's own; its log has the details; asking again every 0.2 s" in " ".join(
        got.stdout.split()
    )
    assert got.stdout.count("up 1 d 02 h") >= 1


def test_following_a_log_until_ctrl_c(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is new is printed once, as it comes."""
    monkeypatch.setattr("reelnet.operating.watching.FOLLOW_S", 0.01)

    class Growing(Interrupting):
        async def logs(self, slot: str, lines: int) -> str:
            self.text += f"line {self.left}\n"
            return await super().logs(slot, lines)

    with served(Growing(text="begin\n"), home / "orchestrator" / "default"):
        got = run("logs", "1-acme-svd-0", "--follow")
    assert got.exit_code == 0
    assert got.stdout.splitlines()[:3] == ["begin", "line 3", "line 2"]


def test_ctrl_c_ends_the_waiting_and_not_the_draining(home: Path) -> None:
    """And says so."""
    with served(Interrupting(polls_to_idle=10_000), home / "orchestrator" / "default") as node:
        got = run("drain")
        assert node.state.draining
    assert (got.exit_code, "the node goes on draining" in got.stderr) == (130, True)


def test_drain_waits_for_the_jobs(home: Path) -> None:
    """It says how many are left, and ends when none is."""
    with node(home, polls_to_idle=3) as scripted:
        got = run("drain")
        assert scripted.state.draining
    assert got.exit_code == 0
    assert got.stderr.startswith("draining: 3 jobs here: 1 running, 2 waiting\n")
    assert got.stdout.startswith("drained: no job is here")


def test_drain_without_waiting(home: Path) -> None:
    """The node drains on by itself; `resume` ends it."""
    with node(home, polls_to_idle=99) as scripted:
        assert run("drain", "--no-wait").stdout == "draining: 3 jobs here: 1 running, 2 waiting\n"
        assert scripted.state.draining
        assert run("resume").stdout == "the node takes jobs\n"
        assert not scripted.state.draining


def test_drain_that_takes_too_long(home: Path) -> None:
    """Is a failure, and changes nothing: the node goes on draining."""
    with node(home, polls_to_idle=10_000) as scripted:
        got = run("drain", "--timeout", "0.1")
        assert scripted.state.draining
    assert (got.exit_code, "not drained within 0.1 s: 3 jobs here" in got.stderr) == (1, True)


def test_drain_that_somebody_ends(home: Path) -> None:
    """Nobody may take the node for drained then."""

    class Resumed(ScriptedNode):
        def drain(self) -> None:
            pass

    with served(Resumed(), home / "orchestrator" / "default"):
        got = run("drain")
    assert (got.exit_code, "by somebody else" in got.stderr) == (3, True)


def test_reload(home: Path) -> None:
    """A line for each change, harmless; a word when there is none."""
    with node(home, changed=("one", "two\x1b[31m")):
        assert run("reload").stdout == "one\ntwo [31m\n"
    with node(home, changed=()):
        assert run("reload").stdout == "nothing changed\n"


def test_reload_of_a_bad_file(home: Path) -> None:
    """Every fault, and the code of a faulty configuration."""
    with node(home, reload_error=ConfigError("x.yaml: a\nx.yaml: b")):
        got = run("reload")
    assert (got.exit_code, got.stderr) == (2, "error: x.yaml: a\nx.yaml: b\n")


def test_logs(home: Path) -> None:
    """Of one slot as they are, of several with their names."""
    with node(home, text="one\ntwo\nthree\n"):
        assert run("logs", "1-acme-svd-0", "--lines", "2").stdout == "two\nthree\n"
        assert run("logs", "--lines", "1").stdout == "0-acme-sdxl-0 | three\n1-acme-svd-0 | three\n"
        wrong = run("logs", "1-acme-svd")
    assert (wrong.exit_code, "did you mean '1-acme-svd-0'?" in wrong.stderr) == (3, True)


def test_models(home: Path, tmp_path: Path) -> None:
    """Of a running node what it says; without one what the file says."""
    with node(home):
        assert "1 of 1" in run("models").stdout
        assert [model["loaded"] for model in json.loads(run("models", "--json").stdout)] == [1, 0]
    (tmp_path / "x.yaml").write_text(
        "models: [{model: acme/sd, replicas: 2, warm: false, pipelines: {text-to-image: {price: {job: '0.1'}}}}]"
    )
    got = run("models", "--config", "x.yaml").stdout
    assert all(word in got for word in ("acme/sd", "on demand", "0 of 2", "job 0.1", "as configured: no node"))
    assert "no models are configured" in run("models").stdout


def test_names_are_whole_in_a_pipe(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few columns the terminal has: each stands on one line."""
    monkeypatch.setenv("COLUMNS", "60")
    name, why = "acme/" + "m" * 115, "because " + "w" * 200
    slot = replace(STATUS.slots[0], slot="s" * 120, model=name, job_id="j" * 120, reason=why)
    device = replace(STATUS.devices[0], name="d" * 120, title="t" * 120)
    with node(home, state=replace(STATUS, slots=(slot,), devices=(device,), models=(ModelStatus(name, problem=why),))):
        status, models = run("status").stdout.splitlines(), run("models").stdout.splitlines()
    for whole in ("s" * 120, name, "j" * 120, "d" * 120, "t" * 120, why):
        assert any(whole in line for line in status), whole
    for whole in (name, why):
        assert any(whole in line for line in models), whole


def test_config_check(tmp_path: Path) -> None:
    """What it prints is the whole configuration: a node reads it back and has the same one."""
    model_folder(tmp_path / "models" / "acme" / "sd")
    text = "name: b\nmodels: [{model: acme/sd}, {model: s/bars, backend: {synthetic: {unit_s: 1}}}]\n"
    (tmp_path / "x.yaml").write_text(text)
    got = run("config", "check", "x.yaml")
    assert got.exit_code == 0
    assert f"# acme/sd: {tmp_path}/models/acme/sd: StableDiffusionPipeline, 0.00 GiB of weights" in got.stdout
    (tmp_path / "y.yaml").write_text(got.stdout)
    again = load(OrchestratorSettings, tmp_path / "y.yaml")
    first = load(OrchestratorSettings, tmp_path / "x.yaml")
    assert again == first.model_copy(update={"home": tmp_path / "home", "models_home": tmp_path / "models"})
    assert yaml.safe_load(got.stdout)["limits"]["drain_s"] == 600
    assert json.loads(run("config", "check", "x.yaml", "--json").stdout)["settings"]["name"] == "b"


def test_config_check_of_unknown_keys(tmp_path: Path) -> None:
    """Each on a line, with the nearest known one."""
    (tmp_path / "x.yaml").write_text("limts: {}\nmodels: [{modl: x, model: y}]\n")
    got = run("config", "check", "x.yaml")
    assert got.exit_code == 2
    assert "x.yaml: limts: unknown key; did you mean 'limits'?" in got.stderr
    assert "x.yaml: models.0.modl: unknown key; did you mean 'model'?" in got.stderr


def test_config_check_of_missing_models(tmp_path: Path) -> None:
    """Each model that a node could not serve has a line, after the values, also one of which a copy was cut short."""
    (tmp_path / "x.yaml").write_text("models: [{model: acme/a}, {model: ./b}, {model: ./half}]\n")
    (tmp_path / "b").mkdir()
    os.truncate(model_folder(tmp_path / "half") / "unet" / "diffusion_pytorch_model.safetensors", 70)
    got = run("config", "check", "x.yaml")
    assert got.exit_code == 2
    assert f"x.yaml: models: acme/a: {tmp_path}/models/acme/a: there is no such folder; put" in got.stderr
    assert "diffusion_pytorch_model.safetensors is no safetensors file, or cut short (70 bytes)" in got.stderr
    assert f"x.yaml: models: b: {tmp_path}/b: no model in diffusers layout (model_index.json)" in got.stderr
    assert "log_level: info" in got.stdout


def test_init(tmp_path: Path, home: Path) -> None:
    """The file is one that a node takes, with what was found; the key is there and private."""
    model_folder(tmp_path / "models" / "acme" / "svd", "StableVideoDiffusionPipeline")
    model_folder(tmp_path / "models" / "flat")
    model_folder(tmp_path / "models" / ".hidden")
    got = run("init", "--name", "gpu-box")
    assert got.exit_code == 0, got.stderr
    settings = load(OrchestratorSettings, tmp_path / "orchestrator.yaml")
    assert (settings.name, [m.model_id for m in settings.models]) == ("gpu-box", ["acme/svd", "flat"])
    key = home / "orchestrator" / "gpu-box" / "identity.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert f"node id: {Identity.load_or_create(key).id}" in got.stdout
    text = (tmp_path / "orchestrator.yaml").read_text()
    assert '"acme/svd" # StableVideoDiffusionPipeline' in text
    assert "# pipelines: {image-to-video: {price:" in text


@pytest.mark.parametrize(
    ("class_name", "pipelines"),
    [
        ("StableDiffusionPipeline", ["text-to-image", "image-to-image"]),
        ("StableDiffusionInstructPix2PixPipeline", ["image-to-image"]),
        ("FilmInterpolation", ["frame-interpolation"]),
        ("WanImageToVideoPipeline", ["image-to-video"]),
    ],
)
def test_init_offers_what_a_class_does(tmp_path: Path, class_name: str, pipelines: list[str]) -> None:
    """And nothing else: a runner with another pipeline would not start."""
    model_folder(tmp_path / "models" / "acme" / "x", class_name)
    assert run("init").exit_code == 0
    file = tmp_path / "orchestrator.yaml"
    file.write_text(file.read_text().replace("    # pipelines:", "    pipelines:"))
    assert list(load(OrchestratorSettings, file).models[0].pipelines) == pipelines


@pytest.mark.parametrize("class_name", ["SomethingNewPipeline", "WanPipeline", ""])
def test_init_leaves_out_what_no_runner_loads(tmp_path: Path, class_name: str) -> None:
    """With the reason in the file; a Wan that draws from words alone is one of these."""
    model_folder(tmp_path / "models" / "acme" / "x", class_name)
    assert run("init").exit_code == 0
    assert load(OrchestratorSettings, tmp_path / "orchestrator.yaml").models == ()
    assert "# acme/x: left out, no runner loads a " in (tmp_path / "orchestrator.yaml").read_text()


def test_init_always_writes_the_models_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node's service has another home, and another folder to be in."""
    assert run("init").exit_code == 0
    assert load(OrchestratorSettings, tmp_path / "orchestrator.yaml").models_home == tmp_path / "models"
    assert run("init", "--force", "--models-home", "mine").exit_code == 0
    assert load(OrchestratorSettings, tmp_path / "orchestrator.yaml").models_home == tmp_path / "mine"


def test_the_commented_prices_are_good_ones(tmp_path: Path) -> None:
    """Who takes the # away has a configuration."""
    model_folder(tmp_path / "models" / "acme" / "sd")
    assert run("init").exit_code == 0
    file = tmp_path / "orchestrator.yaml"
    file.write_text(file.read_text().replace("    # pipelines:", "    pipelines:"))
    assert load(OrchestratorSettings, file).models[0].pipelines["text-to-image"].rates.mpix_step > 0


def test_hints_name_the_operators_own_file(tmp_path: Path) -> None:
    """Whatever it is called: each line can be pasted."""
    got = run("init", "my node.yaml", "--name", "gpu-box", "--synthetic")
    assert "next: orchestrator doctor --config 'my node.yaml'\n" in got.stdout
    assert "then: orchestrator serve --config 'my node.yaml'\n" in got.stdout
    assert "`orchestrator serve --config 'my node.yaml'`" in (tmp_path / "my node.yaml").read_text().splitlines()[0]
    assert run("status", "--config", "my node.yaml").stderr.endswith(
        "start it with: orchestrator serve --config 'my node.yaml' --name gpu-box\n"
    )


def test_the_doctor_says_how_to_check_the_file(tmp_path: Path) -> None:
    """With the file and the name that the operator gave."""
    (tmp_path / "x y.yaml").write_text("colour: red\n")
    for name, command in ((None, "--config 'x y.yaml'"), ("b", "--config 'x y.yaml' --name b")):
        _, (fault,) = setup._settings_or_fault(Path("x y.yaml"), name)
        assert f"`orchestrator config check {command}` says" in fault.finding.fix


def test_init_replaces_nothing_by_itself(tmp_path: Path) -> None:
    """An operator's file is only replaced when they say so."""
    (tmp_path / "orchestrator.yaml").write_text("name: mine\n")
    got = run("init", "--synthetic")
    assert (got.exit_code, "replace it with --force" in got.stderr) == (2, True)
    assert (tmp_path / "orchestrator.yaml").read_text() == "name: mine\n"
    assert run("init", "--synthetic", "--force").exit_code == 0
    assert load(OrchestratorSettings, tmp_path / "orchestrator.yaml").models[0].model_id == "synthetic/bars"
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_init_where_nothing_can_be_written(tmp_path: Path) -> None:
    """The line names the file."""
    got = run("init", "missing/orchestrator.yaml")
    assert (got.exit_code, got.stderr) == (
        2,
        "error: missing/orchestrator.yaml: cannot be written: No such file or directory\n",
    )


def test_init_without_models(tmp_path: Path) -> None:
    """The file says where they have to lie; names with odd characters stay names."""
    odd = tmp_path / 'mo"dels: #x'
    assert run("init", "--models-home", str(odd)).exit_code == 0
    settings = load(OrchestratorSettings, tmp_path / "orchestrator.yaml")
    assert (settings.models, settings.models_home) == ((), odd)


def test_init_writes_the_folders_that_were_named(tmp_path: Path) -> None:
    """The key lies where the file says."""
    assert run("init", "--home", str(tmp_path / "state")).exit_code == 0
    assert load(OrchestratorSettings, tmp_path / "orchestrator.yaml").home == tmp_path / "state"
    assert (tmp_path / "state" / "orchestrator" / "default" / "identity.key").exists()


def test_a_drained_node_in_the_status(home: Path) -> None:
    """It is seen at once."""
    with node(home, state=replace(STATUS, draining=True, jobs=0)):
        assert "DRAINING" in run("status").stdout
