"""What the words of the command line mean together."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.options import Named, PoolOptions, aim, check_writable, runs_of
from reelnet.errors import ConfigError

NODE = "127.0.0.1:8935"


@pytest.fixture
def runner_socket() -> Iterator[Path]:
    """A Unix socket with nobody behind it."""
    with tempfile.TemporaryDirectory(prefix="rn-", dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/runner.sock")
        yield Path(folder, "runner.sock")


@pytest.mark.parametrize(
    ("named", "pool", "message"),
    [
        (Named("everything"), PoolOptions(), "expected auto, broadcaster, orchestrator, runner"),
        (Named("runner"), PoolOptions(), "--runner SOCKET"),
        (Named("auto", "http://x", (NODE,)), PoolOptions(), "give one of them"),
        (Named("broadcaster", None, (NODE,)), PoolOptions(), "another kind, orchestrator"),
        (Named("auto", None, ("somewhere",)), PoolOptions(), "--node: .*host:port"),
        (Named("auto", None, ("127.0.0.1:1#abc",)), PoolOptions(), "no node id"),
        (Named("auto", None, (), (Path("/no/such/runner.sock"),)), PoolOptions(), "no Unix socket"),
        (Named("auto", "http://x"), PoolOptions(speeds="1,2"), "name no other"),
        (Named("auto", "http://x"), PoolOptions(fresh=True), "name no other"),
        (Named("broadcaster", identity=Path("key")), PoolOptions(), "--identity"),
        (Named("auto", None, (NODE,), key_file=Path("key")), PoolOptions(), "--key-file: .*broadcaster"),
        (Named("auto", key_file=Path("key")), PoolOptions(fresh=True), "--key-file: .*broadcaster"),
        (Named("auto", "http://x", key_file=Path("/no/such/key")), PoolOptions(), "/no/such/key cannot be read"),
        (Named("auto"), PoolOptions(backend="huge"), "expected tiny or synthetic"),
        (Named("auto"), PoolOptions(speeds="fast"), "numbers such as 1,1,2,4"),
        (Named("auto"), PoolOptions(speeds="1,-2"), "numbers such as 1,1,2,4"),
        (Named("auto"), PoolOptions(speeds="1,nan"), "numbers such as 1,1,2,4"),
        (Named("auto"), PoolOptions(speeds=",".join("1" * 17)), "1 to 16 numbers"),
        (Named("auto"), PoolOptions(speeds="1,2", nodes=3), "names 2 nodes, --nodes 3"),
        (Named("auto"), PoolOptions(speeds="1,2", backend="tiny"), "only the synthetic backend"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(named: Named, pool: PoolOptions, message: str) -> None:
    """The message names the option and what is expected."""
    with pytest.raises(ConfigError, match=message):
        aim(named, pool, 1)


def test_what_is_named_implies_the_target(runner_socket: Path) -> None:
    """Without --target, an address or a socket says what it is."""
    assert aim(Named("auto"), PoolOptions(), 1).kind is None
    assert aim(Named("auto", "http://x"), PoolOptions(), 1).kind == "broadcaster"
    assert aim(Named("auto", None, (NODE,)), PoolOptions(), 1).kind == "orchestrator"
    assert aim(Named("auto", None, (), (runner_socket,)), PoolOptions(), 1).kind == "runner"
    assert aim(Named("orchestrator", "http://x"), PoolOptions(), 1).kind == "orchestrator"


def test_an_api_key_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    """The file's word counts; neither the target nor an error shows it."""
    file = tmp_path / "key"
    file.write_text("from-the-file\n")
    environ = {"REELNET_BENCHMARK_KEY": "from-the-environment"}
    keys = [aim(Named("auto", "http://x", key_file=given), PoolOptions(), 1, environ).key for given in (file, None)]
    assert [key and key.get_secret_value() for key in keys] == ["from-the-file", "from-the-environment"]
    assert "from-the" not in repr(aim(Named("auto", "http://x"), PoolOptions(), 1, environ))
    assert aim(Named("auto", "http://x"), PoolOptions(), 1, {}).key is None
    for text in ("", "two words", "k\u00e9y", "k" * 5000):
        file.write_text(text)
        with pytest.raises(ConfigError, match="--key-file: expected one key") as caught:
            aim(Named("auto", "http://x", key_file=file), PoolOptions(), 1, {})
        assert not text or text not in str(caught.value)


def test_a_runner_takes_one_job_at_a_time(runner_socket: Path) -> None:
    """It has one permit and no queue: more would only be refused."""
    with pytest.raises(ConfigError, match="one job at a time"):
        aim(Named("auto", None, (), (runner_socket,)), PoolOptions(), 2)


def test_speeds_make_a_synthetic_pool_of_its_own() -> None:
    """One node for each number, started even where another pool answers."""
    found = aim(Named("auto"), PoolOptions(speeds="1,1,2,4"), 1)
    assert (found.fresh, found.pool.size, found.pool.backend) == (True, 4, "synthetic")
    assert found.pool.speeds == (1.0, 1.0, 2.0, 4.0)


def test_runs_or_a_duration() -> None:
    """One of them; ten runs when nothing is said."""
    assert (runs_of(None, None), runs_of(3, None)) == (10, 3)
    with pytest.raises(ConfigError, match="--duration"):
        runs_of(3, 5.0)


@pytest.mark.parametrize("name", ["no/such/folder/report.json", "."])
def test_a_report_needs_a_place(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Found before anything is measured."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="--json"):
        check_writable(Path(name))
