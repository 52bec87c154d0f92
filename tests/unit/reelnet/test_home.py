"""Where state and models lie."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from reelnet.errors import StartError
from reelnet.home import instance_dir, locked_instance, model_dir, models_home, state_home


@pytest.mark.parametrize(
    ("environ", "state", "models"),
    [
        ({}, "~/.local/state/reelnet", "~/.local/share/reelnet/models"),
        ({"XDG_STATE_HOME": "/s", "XDG_DATA_HOME": "/d"}, "/s/reelnet", "/d/reelnet/models"),
        ({"REELNET_HOME": "/r", "REELNET_MODELS": "/m", "XDG_STATE_HOME": "/s"}, "/r", "/m"),
        ({"REELNET_HOME": "", "REELNET_MODELS": "", "XDG_STATE_HOME": "", "XDG_DATA_HOME": ""},
         "~/.local/state/reelnet", "~/.local/share/reelnet/models"),
    ],
)  # fmt: skip
def test_our_variable_then_xdg_then_home(environ: dict[str, str], state: str, models: str) -> None:
    """The nearest one that is set counts; an empty variable is not set."""
    assert state_home(environ) == Path(state).expanduser()
    assert models_home(environ) == Path(models).expanduser()


def test_an_instance_has_a_private_folder(tmp_path: Path) -> None:
    """One folder a component and instance, for its owner alone, also when it was there with another mode."""
    first = instance_dir("orchestrator", "a", tmp_path)
    assert first == tmp_path / "orchestrator" / "a"
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    first.chmod(0o755)
    (first / "identity.key").write_bytes(b"key")
    assert instance_dir("orchestrator", "a", tmp_path) == first
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert (first / "identity.key").read_bytes() == b"key"
    others = {instance_dir("orchestrator", "b", tmp_path), instance_dir("broadcaster", "a", tmp_path)}
    assert len(others | {first}) == 3


def test_a_model_is_an_id_or_a_folder(tmp_path: Path) -> None:
    """An id lies in the models' home, whatever the working directory; a path is a path."""
    home, base = tmp_path / "models", tmp_path / "work"
    assert model_dir("acme/sdxl", base, home) == home / "acme" / "sdxl"
    assert model_dir("/srv/sdxl", base, home) == Path("/srv/sdxl")
    assert model_dir("./sdxl", base, home) == base / "sdxl"
    assert model_dir("../sdxl", base, home) == tmp_path / "sdxl"
    assert model_dir("~/sdxl", base, home) == Path("~/sdxl").expanduser()


def test_an_instance_runs_once(tmp_path: Path) -> None:
    """A second process of the same instance cannot start, another instance can, and afterwards the next one can."""
    for _ in range(2):
        with locked_instance("orchestrator", "a", tmp_path) as folder:
            assert folder == tmp_path / "orchestrator" / "a"
            with pytest.raises(StartError, match="--name"), locked_instance("orchestrator", "a", tmp_path):
                pass
            with locked_instance("orchestrator", "b", tmp_path), locked_instance("broadcaster", "a", tmp_path):
                pass
