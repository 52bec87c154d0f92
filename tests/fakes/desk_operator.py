"""Somebody who follows the handbook with node and broadcaster in terminals."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import runner.cli
from tests.fakes.machine import PATIENCE_S, ROOT, Service
from tests.fakes.operators import OPERATE, Operator, Way
from tests.fakes.page import Step

JOB = '{"prompt": "a fox", "width": 64, "height": 64, "num_inference_steps": 2, "seed": 1}'
LONG_JOB = '{"prompt": "a fox", "width": 1024, "height": 1024, "num_inference_steps": 100, "num_images_per_prompt": 4}'


class DeskOperator(Operator):
    """Has node and broadcaster in terminals, with the synthetic model that `init --synthetic` brings."""

    address = ""
    """The node's, as a broadcaster's list has it."""
    key = key_id = ""

    @property
    def ways(self) -> dict[str, Way]:
        return {
            r"export PATH=": self._export,
            r"orchestrator init": self._init_node,
            r"broadcaster init": self._init,
            r"(orchestrator|broadcaster) doctor$": lambda line: self.examine(f"{line} {self._config(line)}"),
            r"(orchestrator|broadcaster) doctor ": self.examine,
            r"(orchestrator|broadcaster) serve ": self._serve,
            r"(orchestrator|broadcaster) status .*--watch": self._watch,
            r"orchestrator reload$": self._reload_node,
            r"broadcaster reload$": self._reload,
            r"systemctl reload$": self._hang_up,
            r"(orchestrator|broadcaster) resume$|broadcaster (status|nodes)$": self.run,
            r"broadcaster id$": self._id,
            r"broadcaster drain --name blue$": self._drain_blue,
            r"broadcaster keys add NAME$": self._add_key,
            r"broadcaster keys revoke NAME$": self._revoke_key,
            r"printf %s KEY \|": self._key_id,
            r"sqlite3 journal\.db ": self._sqlite,
            r"ssh -N -L ": self._tunnel,
            r"runner (flops DIR --pipeline NAME|models (pull|estimate))$": self._exists,
            r"journalctl -u ": self._journalctl,
        }

    def finish(self) -> None:
        """What the page says of the ends: exit codes, and what is left of the files."""
        files_are_there(self)
        self._refuse_and_force()
        self.machine.interrupt()
        assert not list(self.state.glob("orchestrator/*/ready.json"))

    def log(self, program: str) -> Service:
        """The last one of a program's that serves."""
        return next(s for s in reversed(self.machine.services) if s.line.startswith(f"{program} serve"))

    def send(self, job: str = JOB) -> str:
        """The line that sends a job."""
        auth = f"-H 'authorization: Bearer {self.key}' " if self.key else ""
        return f"curl -s http://127.0.0.1:9935/text-to-image {auth}-H 'content-type: application/json' -d '{job}'"

    def until(self, component: str, true: Callable[[Any], object], name: str = "default") -> Any:
        """Asks for the status until it is as it has to be; as the commands ask, without a process of Python's."""
        socket = self.state / component / name / "control.sock"
        deadline = time.monotonic() + PATIENCE_S
        while not true(status := json.loads(self.run(f"curl -s --unix-socket {socket} http://control/status")[:-4])):
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        return status

    def works(self) -> None:
        """A job is done."""
        said = self.machine.run(self.send())
        assert said.endswith("\n200"), said

    @property
    def state(self) -> Path:
        """The state folder of all components."""
        return Path(self.machine.environ["XDG_STATE_HOME"]) / "reelnet"

    def _config(self, line: str) -> str:
        return f"--config {line.split()[0]}.yaml"

    def _export(self, line: str) -> None:
        self.machine.environ["PATH"] = self.machine.run(f'{line.partition("#")[0]}; printf %s "$PATH"')
        assert "clone/.venv/bin/orchestrator" in self.machine.run("command -v orchestrator")

    def _init_node(self, line: str) -> None:
        """With a comment on each key; a file is not replaced without `--force`."""
        assert "wrote orchestrator.yaml" in self.run(line)
        self.machine.run(line, codes=(2,))
        assert "wrote orchestrator.yaml: 1 models" in self.run("orchestrator init --synthetic --force")

    def _init(self, line: str) -> None:
        self.key = self.run(line).partition("shown this once: ")[2].split()[0]

    def _serve(self, line: str) -> None:
        program = line.split()[0]
        says = {"orchestrator": "node serves", "broadcaster": "broadcaster serves"}[program]
        self.machine.start(line).wait_until_it_says(says)
        if program == "orchestrator":
            self.address = self.until("orchestrator", lambda status: status["slots"])["address"]
            assert self.address in self.log(program).said()

    def _watch(self, line: str) -> None:
        watching = self.machine.start(line)
        watching.wait_until_it_says("job")
        self.machine.end(watching)

    def _reload_node(self, line: str) -> None:
        self._edit("orchestrator", "stall_s: 60", "stall_s: 61")
        assert "limits.stall_s: 60" in self.run(line)
        self._edit("orchestrator", "grpc: {host: 127.0.0.1, port: 8935}", "grpc: {host: 127.0.0.1, port: 8999}")
        assert "(needs a restart)" in self.run(line)
        self._edit("orchestrator", "port: 8999", "port: 8935")
        self._edit("orchestrator", "stall_s: 61", "colour: red")
        self.machine.run(line, codes=(2,))
        self._edit("orchestrator", "colour: red", "stall_s: 61")

    def _reload(self, line: str) -> None:
        """The first time it brings the node, and with it jobs."""
        self._edit("broadcaster", "orchestrators: []", f"orchestrators: ['{self.address}']")
        self.run(line)
        self.until("broadcaster", serves)
        self.works()

    def _hang_up(self, _: str) -> None:
        """What `systemctl reload` does to a service, in a terminal: tests/unit/test_deploy.py has the unit."""
        component = self.machine.services[-1].line.split()[0]
        self._edit(component, "drain_s: 600", "drain_s: 590")
        self.run(f"kill -HUP {self._pid(component)}")
        self.log(component).wait_until_it_says("limits.drain_s: 600")
        self._edit(component, "drain_s: 590", "drain_s: 600")

    def _pid(self, component: str) -> int:
        return int(json.loads((self.state / component / "default" / "ready.json").read_text())["pid"])

    def _edit(self, component: str, old: str, new: str) -> None:
        file = self.machine.clone / f"{component}.yaml"
        file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")

    def _exists(self, line: str) -> None:
        """A command that needs a hub or a model: it is there, with the options that the line names."""
        words = re.sub(r" (?:[A-Z]+|--).*", "", line).split()[1:]
        said = CliRunner().invoke(runner.cli.cli, [*words, "--help"], terminal_width=200)
        assert said.exit_code == 0, line
        assert all(option in said.output for option in re.findall(r"--\w+", line))

    def _id(self, line: str) -> None:
        assert re.fullmatch(r"[a-z2-7]{52}\n", self.run(line))

    def _use(self, step: Step) -> None:
        uses = {"yaml broadcaster": self._use_shared, "yaml orchestrator": self._use_second}
        uses |= {"console": self._use_session, "keys": self._use_keys}
        if step.kind not in uses:
            super()._use(step)
        uses[step.kind](step.text)

    def _use_session(self, text: str) -> None:
        """A line, and what it prints: here with other figures, in the same tables."""
        line, *shown = text.splitlines()
        said = self.run(line)
        for words in (re.findall(r"[a-z][a-z0-9 /]*[a-z0-9]", row) for row in shown if "│" in row):
            if {"device", "slot"} & set(words):
                assert all(word in said for word in words), (words, said)

    def _use_shared(self, text: str) -> None:
        """Two instances of one port: the file's, and the second one that its text describes."""
        self.machine.end(self.log("broadcaster"))
        for name, port in (("blue", 5935), ("green", 5936)):
            file = f"{text}\nmetrics: {{port: {port}}}\norchestrators: ['{self.address}']\n".replace("blue", name)
            (self.machine.clone / f"{name}.yaml").write_text(file, "utf-8")
            self._serve(f"broadcaster serve --config {name}.yaml")
            self.until("broadcaster", serves, name)
        self.works()

    def _drain_blue(self, line: str) -> None:
        """New jobs go to the other one at once; afterwards the pool is as before."""
        assert self.run(line).startswith("drained")
        self.works()
        for name in ("green", "blue"):
            self.machine.end(next(s for s in self.machine.services if f"{name}.yaml" in s.line))
        self._serve("broadcaster serve --config broadcaster.yaml")

    def _use_second(self, text: str) -> None:
        """A second node; here on a CPU, with a synthetic model. Its name runs once."""
        model = "{model: acme/sdxl, backend: {synthetic: {unit_s: 0.01}}}"
        text = text.replace("cuda:1", "cpu").replace("{model: acme/sdxl}", model)
        (self.machine.clone / "second.yaml").write_text(text, "utf-8")
        serve = "orchestrator serve --config second.yaml"
        service = self.machine.start(serve)
        service.wait_until_it_says("node serves")
        self.machine.run(serve, codes=(3,))
        assert "running here: default, second" in self.machine.run("orchestrator status --name none 2>&1", codes=(3,))
        self.machine.end(service)

    def _journalctl(self, line: str) -> None:
        """No systemd runs here: the unit of that name is one of deploy's."""
        assert (ROOT / "deploy" / f"{line.split()[-1]}.service").exists()

    def _tunnel(self, line: str) -> None:
        """To the node's gRPC port the broadcaster's doctor goes through; to its metrics port Prometheus does."""
        near, far = re.findall(r"-L 127\.0\.0\.1:(\d+):127\.0\.0\.1:(\d+) ", line)[0]
        self.machine.start(line)
        through = {
            "8935": self._doctor_through(near),
            "7935": f"curl -s --retry-connrefused --retry 60 --retry-delay 1 http://127.0.0.1:{near}/metrics",
        }
        assert {"8935": "up, with synthetic/bars", "7935": "reelnet_node_"}[far] in self.machine.run(through[far])

    def _doctor_through(self, port: str) -> str:
        text = f"name: far\norchestrators: ['127.0.0.1:{port}#{self.address.partition('#')[2]}']\n"
        (self.machine.clone / "far.yaml").write_text(text + "http: {port: 0}\nmetrics: {port: 0}\n", "utf-8")
        return "broadcaster doctor --config far.yaml"

    def _add_key(self, line: str) -> None:
        self.run(f"{line.replace('NAME', 'bob')} --config broadcaster.yaml")
        assert self._names() == ["alice", "bob"]

    def _revoke_key(self, line: str) -> None:
        self.run(f"{line.replace('NAME', 'bob')} --config broadcaster.yaml")
        assert self._names() == ["alice"]

    def _names(self) -> list[str]:
        return re.findall(r"name=(\w+)", (self.machine.clone / "keys").read_text("utf-8"))

    def _use_keys(self, text: str) -> None:
        """Lines for the file of keys; what is cut off of a key is anybody's."""
        (self.machine.clone / "keys").write_text(text.replace("…", 26 * "0"), "utf-8")
        self.key = text.partition("…")[0] + 26 * "0"
        self._reload("broadcaster reload")
        known = self.asked("broadcaster keys list --config broadcaster.yaml")
        wanted = [tuple(re.findall(r"(?:name|safety)=(\w+)", line)) for line in text.splitlines()]
        assert [(key["name"], key["safety"]) for key in known[1:]] == wanted[1:]
        self.key_id = known[0]["id"]
        assert known[0]["name"] == self.key_id

    def _key_id(self, line: str) -> None:
        assert self.machine.run(line.replace("KEY", self.key)) == self.key_id

    def _sqlite(self, line: str) -> None:
        """In the journal's folder; of the months one in which there were jobs."""
        line = line.replace("2027-01-01", "2000-01-01").replace("2027-02-01", "2999-01-01")
        said = self.machine.run(f"cd {shlex.quote(str(self.state / 'broadcaster' / 'default'))} && {line}")
        if "SELECT" in line:
            assert re.match(r"[0-9a-f]{12}\|[1-9]", said), said
        if ".dump" in line:
            assert "INSERT" in said

    def _refuse_and_force(self) -> None:
        """1: a drain that was not done in time. 130: the second Ctrl-C, while a job runs."""
        self.machine.start(f"{self.send(LONG_JOB)} || true")  # its broadcaster ends before it
        self.until("orchestrator", lambda status: status["jobs"])
        self.machine.run("orchestrator drain --timeout 0.01", codes=(1,))
        self.run("orchestrator resume")
        broadcaster = self.log("broadcaster")
        pid = self._pid("broadcaster")
        self.run(f"kill -INT {pid}")
        self.until("broadcaster", lambda status: status["draining"])
        self.run(f"kill -INT {pid}")
        assert broadcaster.process.wait(PATIENCE_S) == 130
        self.machine.services.remove(broadcaster)


def serves(status: Any) -> bool:
    """Whether a broadcaster has nodes, each with a model."""
    return bool(status["nodes"]) and all(node["models"] for node in status["nodes"])


def files_are_there(operator: DeskOperator) -> None:
    """Each path of the table below the state folder, with the mode that it says."""
    state = operator.state
    for path, what in OPERATE.sections["Folders and files"].rows():
        pattern = re.sub("<component>", "*", path.strip("`")).replace("<name>", "default")
        found = list(state.glob(re.sub(r"<\w+>", "*", pattern).rstrip("/")))
        assert len(found) >= 1 + ("<component>" in path), path
        for mode in re.findall(r"mode (0\d+)", what):
            assert {file.stat().st_mode & 0o777 for file in found} == {int(mode, 8)}, path
        for name in re.findall(r"`(\w+\.\w+|\w+/)`", what) if path.endswith("/`") else []:
            assert all((folder / name).exists() for folder in found), (path, name)
