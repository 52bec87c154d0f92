"""What the process engine tells the runner that it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from orchestrator.engine import RunnerSpec
from orchestrator.process_engine import arguments, environment
from orchestrator.runner_command import SOCKET_NAME
from runner.cli import cli


def spec(**changes: object) -> RunnerSpec:
    """A diffusers runner of one slot."""
    values = {"slot": "s", "model_id": "acme/sd", "model": "/srv/sd", "backend": "diffusers", "device": "cuda:1",
              "folder": Path("/run/s")}  # fmt: skip
    return RunnerSpec(**{**values, **changes})  # type: ignore[arg-type]


def parsed(words: list[str]) -> dict[str, object]:
    """The command line as the runner's own command reads it."""
    command = typer.main.get_command(cli)
    with command.make_context("runner", list(words)) as root:
        name, serve, rest = command.resolve_command(root, words)  # type: ignore[attr-defined]
        assert name == "serve"
        with serve.make_context(name, rest, parent=root) as context:
            return {key: value for key, value in context.params.items() if value not in (None, False)}


def test_a_diffusers_runner() -> None:
    """The runner's own command takes the line, and reads from it what the spec says."""
    assert parsed(arguments(spec(pipelines=("text-to-image", "upscale"), options={"unit_s": 1}))) == {
        "model": "/srv/sd",
        "model_id": "acme/sd",
        "backend": "diffusers",
        "pipelines": "text-to-image,upscale",
        "socket": Path("/run/s") / SOCKET_NAME,
        "exit_with_stdin": True,
    }


def test_a_synthetic_runner() -> None:
    """Its options travel as JSON; without a list of pipelines it serves all that it can."""
    options = {"unit_s": 0.5, "faults": [{"after_jobs": 3, "kind": "slow 3"}]}
    got = parsed(arguments(spec(backend="synthetic", model="acme/sd", options=options)))
    assert json.loads(str(got["synthetic"])) == options
    assert "pipelines" not in got


@pytest.mark.parametrize("name", ["a model", "--help", "x; rm -rf /", "$(id)"])
def test_names_are_words_not_commands(name: str) -> None:
    """No shell reads the line: a model's name is one word, whatever it is."""
    words = arguments(spec(model=name, model_id=name))
    assert words[words.index("--model") + 1] == words[words.index("--model-id") + 1] == name


@pytest.mark.parametrize(("device", "visible"), [("cuda:0", "0"), ("cuda:11", "11"), ("cpu/0", "")])
def test_a_runner_sees_its_own_device(device: str, visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU or none, whatever the node itself sees; and no hub to load from."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setenv("MARK", "kept")
    env = environment(spec(device=device))
    assert (env["CUDA_VISIBLE_DEVICES"], env["HF_HUB_OFFLINE"], env["MARK"]) == (visible, "1", "kept")


def test_a_gpu_is_named_by_its_uuid() -> None:
    """An index knows no slice of a GPU, and may change with a restart; flags are passed on."""
    env = environment(spec(gpu="MIG-1", flags={"dtype": "bfloat16"}))
    assert (env["CUDA_VISIBLE_DEVICES"], env["REELNET_RUNNER_DTYPE"]) == ("MIG-1", "bfloat16")
