"""Somebody who follows the handbook at a machine: the ways of every operator, and of one whose node is a service."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fakes.machine import PATIENCE_S, ROOT, Machine
from tests.fakes.page import IN_A_SENTENCE, LINES, Page, Step

OPERATE = Page(ROOT / "docs" / "operate.md")
UNIT = "reelnet-orchestrator.service"
RATED = re.compile(r"Overall exposure level for \S+: (\d+\.\d+)")
Way = Callable[[str], object]


@dataclass
class Operator:
    """Somebody who follows the handbook at a machine. Each kind of line has its way; one without is a failure."""

    machine: Machine

    @property
    def ways(self) -> dict[str, Way]:
        """By the pattern that a line begins with."""
        raise NotImplementedError

    def take(self, title: str, step: Step) -> None:
        """One step; what a block other than lines is for is the operator's `_use`."""
        if step.kind not in (*LINES, IN_A_SENTENCE):
            self._use(step)
        for line in step.lines:
            found = [way for pattern, way in self.ways.items() if re.match(pattern, line)]
            assert found, f"{title}: the handbook has a line that this test cannot run: {line}"
            found[0](line)

    def run(self, line: str) -> str:
        """A line that does what it says."""
        return self.machine.run(line)

    def examine(self, line: str) -> None:
        """A doctor: nothing keeps this from working."""
        assert re.search(r"\d+ PASS, \d+ WARN, 0 FAIL", self.machine.run(line))

    def asked(self, line: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.machine.run(f"{line} --json"))

    def _use(self, step: Step) -> None:
        raise AssertionError(f"the handbook has a block that this test cannot use: {step}")


class ServiceOperator(Operator):
    """Has the node as a service of a user of its own."""

    CONFIG = "--config /etc/reelnet/orchestrator.yaml"
    ASK = "sudo -u reelnet /opt/reelnet/bin/orchestrator"

    @property
    def ways(self) -> dict[str, Way]:
        return {
            r"systemctl reload$": lambda line: self._reload(f"{line} reelnet-orchestrator"),
            r"systemctl edit$": lambda _: None,  # opens an editor
            r"systemd-analyze security$": self._security,
            r"systemctl restart ": self._restart,
            r"systemctl daemon-reload ": self._enable,
            rf"{self.ASK} doctor ": self.examine,
            rf"{self.ASK} resume ": self._resume,
            rf"{self.ASK} (status|drain|config check) ": self.run,
            r"(useradd|install|cp|chown|python3 -m venv) |/opt/reelnet/bin/(pip|\w+ init) ": self.run,
            r"scripts/image |DOCKER_GID=": self.run,
        }

    def finish(self) -> None:
        """The service ends well."""
        for component in ("broadcaster", "orchestrator"):
            self.run(f"systemctl stop reelnet-{component}")
        self.machine.interrupt()

    def _enable(self, line: str) -> None:
        """It runs as its user, who alone may ask it."""
        self.run(line)
        component = line.rpartition("-")[2]
        ask = f"sudo -u reelnet /opt/reelnet/bin/{component} status --config /etc/reelnet/{component}.yaml"
        assert not self.asked(ask)["draining"]
        socket = f"/var/lib/reelnet/{component}/default/control.sock"
        assert self.run(f"stat -c '%a %U' {socket}") == "600 reelnet\n"

    def _reload(self, line: str) -> None:
        """And its outcome stands in the journal."""
        self.run("sed -i 's/stall_s: 60/stall_s: 61/' /etc/reelnet/orchestrator.yaml")
        self.run(line)
        deadline = time.monotonic() + PATIENCE_S
        while "limits.stall_s: 60" not in self.run("cat /run/reelnet-orchestrator.log"):
            assert time.monotonic() < deadline, "the reload is not in the journal"
            time.sleep(0.05)

    def _security(self, line: str) -> None:
        """As the page says it, without the drop-in and with it; systemd's versions differ in the last digit."""
        said = re.search(
            r"rates it (\d\.\d) \(0 is closed, 10 open\), with the drop-in (\d\.\d)",
            " ".join(OPERATE.sections["As a service"].text.split()),
        )
        assert said
        self.run(f"mkdir alone && cp deploy/{UNIT} alone")
        for unit, rate in zip((f"alone/{UNIT}", f"/etc/systemd/system/{UNIT}"), said.groups(), strict=True):
            rated = RATED.search(self.run(f"{line} --offline=true --no-pager {unit}"))
            assert rated
            assert abs(float(rated[1]) - float(rate)) < 0.25

    def _restart(self, line: str) -> None:
        """A drained node is drained after it, and says so."""
        self.run(line)
        assert self.asked(f"{self.ASK} status {self.CONFIG}")["drained"]
        assert "the node is drained" in self.run("cat /run/reelnet-orchestrator.log")

    def _resume(self, line: str) -> None:
        self.run(line)
        assert not self.asked(f"{self.ASK} status {self.CONFIG}")["drained"]
