"""The doctor has the node's own device draw what is known, where a model is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.doctor_checks_jobs import known_answer
from orchestrator.engine import RunnerSpec
from orchestrator.gpus import DriverError
from reelnet.operating.doctor import Finding, Verdict
from runner.backend import Backend, SetupError
from runner.self_test import QUESTIONS, SelfTest
from runner.settings import RunnerSettings
from tests.fakes.host import CARD, IMAGE, ScriptedDriver, sound_host
from tests.fakes.models import model_folder
from tests.fakes.pool import InProcessEngine
from tests.fakes.toy_world import Painter, changed

MODEL = "acme/sd"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> InProcessEngine:
    """The engine that the node would take; its runners draw truly."""
    made = InProcessEngine(backend=lambda spec, settings: SelfTest(settings, Painter()))

    async def choose(*_: object) -> InProcessEngine:
        return made

    monkeypatch.setattr("orchestrator.doctor_checks_jobs.choose_engine", choose)
    return made


def found(home: Path, changes: dict[str, Any] | None = None, **values: Any) -> Finding:
    """What the check says of a node that serves a whole model on a card."""
    model_folder(home / "models" / MODEL)
    base = {"models_home": home / "models", "models": [{"model": MODEL}]}
    (finding,) = known_answer(sound_host(home, changes, **{**base, **values}))
    return finding


def specs(engine: InProcessEngine) -> list[RunnerSpec]:
    """What the engine was asked to start, from now on."""
    asked: list[RunnerSpec] = []
    make = engine.backend

    def backend(spec: RunnerSpec, settings: RunnerSettings) -> Backend:
        asked.append(spec)
        return make(spec, settings)

    engine.backend = backend
    return asked


def test_a_device_that_draws_right(tmp_path: Path, engine: InProcessEngine) -> None:
    """A runner of the self-test on the node's first card, with the model's image, of which nothing is left."""
    asked = specs(engine)
    finding = found(tmp_path, models=[{"model": MODEL, "image": IMAGE}])
    assert finding.verdict is Verdict.PASS
    assert "a runner of the toy world on NVIDIA H200 started, drew what it was asked" in finding.text
    (spec,) = asked
    assert (spec.backend, spec.device, spec.gpu, spec.image) == ("self-test", "cuda:0", CARD.uuid, IMAGE)
    assert engine._lives == {}


def test_on_a_cpu_no_driver_is_asked(tmp_path: Path, engine: InProcessEngine) -> None:
    """The device is the one that the node would take."""
    asked = specs(engine)
    assert found(tmp_path, {"open_driver": None}, devices=["cpu"]).verdict is Verdict.PASS
    assert (asked[0].device, asked[0].gpu) == ("cpu/0", None)


def test_a_device_that_draws_wrong(tmp_path: Path, engine: InProcessEngine) -> None:
    """The line says what was asked and what came."""
    wrong = changed(QUESTIONS[-1], "colour")
    engine.backend = lambda spec, settings: SelfTest(settings, Painter(wrong))
    finding = found(tmp_path)
    assert finding.verdict is Verdict.FAIL
    assert f"{QUESTIONS[-1].prompt!r} came out wrong" in finding.text
    assert "colour orange instead of green" in finding.text
    assert "runner self-test" in finding.fix


def test_a_runner_that_cannot_be_set_up(tmp_path: Path, engine: InProcessEngine) -> None:
    """Its reason is told, and nobody waits for the limit."""

    class Broken(Painter):
        def load(self) -> Any:
            raise SetupError("torch is not installed; install the extra: reelnet[diffusers]")

    engine.backend = lambda spec, settings: Broken()
    finding = found(tmp_path)
    assert (finding.verdict, "torch is not installed" in finding.text) == (Verdict.FAIL, True)


def raises(error: Exception) -> Any:
    def fail() -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("changes", "values", "said"),
    [
        ({}, {"models": [{"model": "synthetic/bars", "backend": "synthetic"}]}, "no model draws but synthetic ones"),
        ({}, {"models": []}, "no model draws but synthetic ones"),
        ({}, {"models": [{"model": "acme/missing"}]}, "see the lines of models"),
        ({}, {"devices": ["cuda:7"]}, "see the lines of driver"),
        ({"open_driver": raises(DriverError("versions differ"))}, {}, "see the lines of driver"),
        ({"open_driver": lambda: ScriptedDriver(())}, {"devices": ["cuda:0"]}, "see the lines of driver"),
    ],
)
def test_where_nothing_can_be_drawn_nothing_is_asked(
    tmp_path: Path, engine: InProcessEngine, changes: dict[str, Any], values: dict[str, Any], said: str
) -> None:
    """Another line says why; this one does not say it twice."""
    finding = found(tmp_path, changes, **values)
    assert (finding.verdict, said in finding.text, engine.starts) == (Verdict.PASS, True, 0)


def test_the_driver_is_let_go(tmp_path: Path, engine: InProcessEngine) -> None:
    """Its session is closed, whatever was found."""
    session = ScriptedDriver()
    found(tmp_path, {"open_driver": lambda: session})
    assert session.closed == 1
