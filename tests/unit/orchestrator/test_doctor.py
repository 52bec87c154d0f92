"""The doctor finds each fault, says how to mend it, and finds none on a machine that has none."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.doctor_checks_engine import docker, driver, image, toolkit
from orchestrator.doctor_checks_host import memory
from orchestrator.doctor_checks_models import CHECKS, weights
from orchestrator.engine import EngineError
from orchestrator.gpus import DriverError, Gpu
from orchestrator.host import DockerAnswerError, Host, this_host
from orchestrator.process_engine import ProcessEngine
from reelnet.identity import Identity
from reelnet.operating.doctor import Check, Finding, Verdict, bad, document, examine, good, healthy, poor, shown
from reelnet.operating.machine import ClockFacts, PortUser, kernel_clock, try_port, user_of_port
from reelnet.operating.machine_checks import clock, key, ports, python, state
from reelnet.settings import Listener
from tests.fakes.controlled import ScriptedNode, served
from tests.fakes.host import CARD, GIB, IMAGE, ScriptedDocker, ScriptedDriver, settings, sound_host
from tests.fakes.models import safetensors

PASS, WARN, FAIL = Verdict.PASS, Verdict.WARN, Verdict.FAIL
Find = Callable[[Host], Iterable[Finding]]


def worst(find: Find, host: Host) -> Finding:
    """The worst that a check says; each line that is not good has its fix in one line."""
    findings = list(find(host))
    assert findings
    for finding in findings:
        assert bool(finding.fix) == (finding.verdict is not PASS), finding
        assert "\n" not in finding.text + finding.fix
    return max(findings, key=lambda finding: list(Verdict).index(finding.verdict))


def raises(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("check", [check for check in CHECKS if check.name != "tiny job"], ids=lambda check: check.name)
@pytest.mark.parametrize("engine", ["docker", "process", "auto"])
def test_a_sound_machine(tmp_path: Path, check: Check, engine: str) -> None:
    """Nothing is found where there is nothing, whatever the engine."""
    assert worst(check.find, sound_host(tmp_path, engine=engine, image=IMAGE)).verdict is PASS


@pytest.mark.parametrize(
    ("find", "changes", "verdict", "text", "fix"),
    [
        (python, {"python": (3, 10, 9)}, FAIL, "3.10.9", "3.11"),
        (state, {"free_bytes": lambda path: 1000}, FAIL, "0.0 GiB free", "home"),
        (state, {"free_bytes": lambda path: 4 * GIB}, WARN, "spool", "limits.spool_bytes"),
        (memory, {"memory_bytes": lambda: None}, WARN, "does not say", "/proc"),
        (memory, {"memory_bytes": lambda: GIB}, WARN, "1.0 GiB", "synthetic"),
        (clock, {"now_s": lambda: 1e9}, FAIL, "2001-09-09", "timedatectl"),
        (clock, {"now_s": lambda: time.time() + 100}, WARN, "differs by 100 s", "NTP"),
        (clock, {"clock": lambda: None}, WARN, "does not say", "timedatectl"),
        (clock, {"clock": lambda: ClockFacts(False, 16)}, WARN, "nothing keeps it right", "set-ntp"),
        (clock, {"clock": lambda: ClockFacts(True, 12)}, WARN, "right to 12 s only", "timesync"),
        (driver, {"open_driver": lambda: None}, WARN, "no NVIDIA GPU", "devices: [cpu]"),
        (driver, {"open_driver": raises(DriverError("versions differ"))}, FAIL, "versions differ", "devices: [cpu]"),
        (driver, {"open_driver": lambda: ScriptedDriver(missing=1)}, FAIL, "1 of the GPUs", "dmesg"),
        (driver, {"open_driver": lambda: ScriptedDriver(cuda="12.4")}, WARN, "CUDA 12.4, models need 13.0", "580"),
        (driver, {"open_driver": lambda: ScriptedDriver(cuda=None)}, WARN, "CUDA unknown", "580"),
        (
            driver,
            {"open_driver": lambda: ScriptedDriver((Gpu("GPU-0a", "H200", 0, None, partitioned=True),))},
            FAIL,
            "MIG mode and none has a slice",
            "devices",
        ),
        (docker, {"docker": raises(FileNotFoundError())}, FAIL, "is not there", "systemctl start docker"),
        (docker, {"docker": raises(ConnectionRefusedError())}, FAIL, "no Docker engine listens", "systemctl start"),
        (docker, {"docker": raises(PermissionError())}, FAIL, "may not use", "usermod -aG docker"),
        (docker, {"docker": raises(TimeoutError("timed out"))}, FAIL, "timed out", "systemctl status docker"),
        (docker, {"docker": raises(DockerAnswerError(500, "boom"))}, FAIL, "boom", "journalctl"),
        (toolkit, {"which": lambda name: None}, FAIL, "containers get no GPU", "nvidia-ctk runtime configure"),
    ],
)
def test_each_fault(tmp_path: Path, find: Find, changes: dict[str, Any], verdict: Verdict, text: str, fix: str) -> None:
    """One line says what it is, and what to do."""
    if find is toolkit:
        (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
        changes = {**changes, "root": tmp_path}
    found = worst(find, sound_host(tmp_path, changes, engine="docker", image=IMAGE))
    assert (found.verdict, text in found.text, fix in found.fix) == (verdict, True, True), found


def test_without_docker_auto_goes_on_with_processes(tmp_path: Path) -> None:
    """What has another way is no failure; and where no image is named Docker is not needed at all."""
    gone = {"docker": raises(FileNotFoundError())}
    found = worst(docker, sound_host(tmp_path, gone, engine="auto", image=IMAGE))
    assert (found.verdict, "processes" in found.text) == (WARN, True)
    for values in ({"engine": "auto"}, {"engine": "process", "image": IMAGE}):
        assert worst(docker, sound_host(tmp_path, gone, **values)).verdict is PASS


def test_an_engine_on_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is a fault for who wants Docker, and none for who does not."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2375")
    checks = [check for check in CHECKS if check.name == "docker"]
    wanted, unused = (this_host(settings(tmp_path, engine=engine, image=IMAGE)) for engine in ("docker", "process"))
    found = next(examine(wanted, checks)).finding
    assert (found.verdict, "DOCKER_HOST" in found.text) == (FAIL, True)
    assert next(examine(unused, checks)).finding.verdict is PASS


def test_docker_that_is_old_or_ends_its_containers(tmp_path: Path) -> None:
    """An engine that is too old cannot be used; one without live-restore can."""
    engine = ScriptedDocker()
    engine.answers["/info"] = {"CgroupVersion": "1"}
    found = worst(docker, sound_host(tmp_path, {"docker": engine}, engine="docker", image=IMAGE))
    assert (found.verdict, "live-restore" in found.text) == (WARN, True)
    engine.answers["/version"] = {"Version": "19.03", "ApiVersion": "1.40"}
    found = worst(docker, sound_host(tmp_path, {"docker": engine}, engine="docker", image=IMAGE))
    assert (found.verdict, "too old" in found.text) == (FAIL, True)


ID = "sha256:" + "b" * 64


@pytest.mark.parametrize(
    ("name", "verdict", "said"),
    [
        (IMAGE, PASS, "7.0 GiB"),
        ("other@sha256:" + "c" * 64, WARN, "docker pull other@sha256:"),
        ("reelnet-runner:latest", FAIL, "scripts/image"),
        ("here:latest", WARN, "set `image: sha256:"),
        (ID, PASS, "7.0 GiB"),
        (None, FAIL, "set `image`"),
    ],
)
def test_images(tmp_path: Path, name: str | None, verdict: Verdict, said: str) -> None:
    """Here, to be had, not to be had, or by a name that moves."""
    engine = ScriptedDocker()
    engine.answers |= dict.fromkeys(
        ("/images/here:latest/json", f"/images/{ID}/json"), engine.answers[f"/images/{IMAGE}/json"]
    )
    found = worst(image, sound_host(tmp_path, {"docker": engine}, engine="docker", image=name))
    assert (found.verdict, said in found.text + found.fix) == (verdict, True), found


def test_a_model_may_have_an_image_of_its_own(tmp_path: Path) -> None:
    """Each that a runner is started from is looked at."""
    models = [{"model": "m", "backend": "synthetic", "image": "own:1"}]
    found = worst(image, sound_host(tmp_path, engine="docker", models=models, image=IMAGE))
    assert found.text.startswith("own:1 is not on this host")


def test_devices_that_are_not_there(tmp_path: Path) -> None:
    """The line names what there is; the session with the driver is closed whatever was found."""
    session = ScriptedDriver((CARD,))
    found = worst(driver, sound_host(tmp_path, {"open_driver": lambda: session}, devices=["cuda:3"]))
    assert found.verdict is FAIL
    assert "there is no cuda:3" in found.text
    assert "cuda:0" in found.text
    assert session.closed == 1


def test_a_cdi_description(tmp_path: Path) -> None:
    """Where containers ask for GPUs by CDI it has to be there."""
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    host = sound_host(tmp_path, {"root": tmp_path}, engine="docker", image=IMAGE, docker={"gpu_request": "cdi"})
    assert worst(toolkit, host).verdict is FAIL
    (tmp_path / "etc/cdi").mkdir(parents=True)
    (tmp_path / "etc/cdi/nvidia.yaml").touch()
    assert worst(toolkit, host).verdict is PASS


def test_the_key(tmp_path: Path) -> None:
    """Private, whole, and never made by looking at it."""
    host = sound_host(tmp_path)
    path = host.folder / "identity.key"
    assert worst(key, host).verdict is PASS
    assert not host.folder.exists()
    host.folder.mkdir(parents=True, mode=0o700)
    Identity.load_or_create(path)
    assert worst(key, host).verdict is PASS
    path.chmod(0o644)
    found = worst(key, host)
    assert (found.verdict, f"chmod 600 {path}" in found.fix) == (FAIL, True)
    path.chmod(0o600)
    path.write_bytes(b"short")
    assert "5 bytes instead of 32" in worst(key, host).text


def test_a_state_folder_that_others_can_look_into(tmp_path: Path) -> None:
    """It works, and is said."""
    host = sound_host(tmp_path)
    host.folder.mkdir(parents=True)
    host.folder.chmod(0o755)
    found = worst(state, host)
    assert (found.verdict, found.fix) == (WARN, f"chmod 700 {host.folder}")


def test_a_state_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line names the folder and the user."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = worst(state, sound_host(tmp_path))
    assert (found.verdict, f"{tmp_path} cannot be written by user {os.getuid()}" in found.text) == (FAIL, True)


def test_an_occupied_port(tmp_path: Path) -> None:
    """The program that has it is named, by the kernel's own tables."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        host = sound_host(
            tmp_path,
            {"try_port": try_port, "user_of_port": user_of_port},
            grpc={"port": port},
            metrics={"port": 0},
        )
        found = worst(ports, host)
    assert found.verdict is FAIL
    assert f"127.0.0.1:{port}: process {os.getpid()} (" in found.text
    assert "grpc.port" in found.fix
    assert worst(ports, host).verdict is PASS


def test_a_port_of_another_users_process(tmp_path: Path) -> None:
    """What cannot be known is not made up."""
    busy = {"try_port": raises(OSError(errno.EADDRINUSE, "in use"))}
    assert "a process of another user listens there" in worst(ports, sound_host(tmp_path, busy)).text
    denied = {"try_port": raises(OSError(errno.EACCES, "Permission denied"))}
    assert "Permission denied" in worst(ports, sound_host(tmp_path, denied)).text


def test_the_ports_of_the_node_itself(tmp_path: Path) -> None:
    """A node that runs is no fault; another program with the node's ports is one, also while the node runs."""
    busy = raises(OSError(errno.EADDRINUSE, "in use"))
    host = sound_host(tmp_path, {"try_port": busy, "user_of_port": lambda port: PortUser(77, "orchestrator")})
    host.folder.mkdir(parents=True)
    (host.folder / "ready.json").write_text(json.dumps({"pid": 77}))
    with served(ScriptedNode(), host.folder):
        assert worst(ports, host).verdict is PASS
        other = sound_host(tmp_path, {"try_port": busy, "user_of_port": lambda port: PortUser(78, "nginx")})
        assert "process 78 (nginx)" in worst(ports, other).text
    assert worst(ports, host).verdict is FAIL


def test_the_kernels_clock_is_asked() -> None:
    """A number of seconds that can be, or nothing."""
    facts = kernel_clock()
    assert facts is None or 0 <= facts.error_s < 1e6


def test_no_models(tmp_path: Path) -> None:
    """A node without models starts, and serves nothing."""
    assert worst(weights, sound_host(tmp_path, models=[])).verdict is WARN


def break_nothing(folder: Path) -> None:
    safetensors(folder / "unet" / "w.safetensors")


def pickled(folder: Path) -> None:
    (folder / "unet").mkdir()
    (folder / "unet" / "w.bin").write_bytes(b"x")


def cut_short(folder: Path) -> None:
    safetensors(folder / "w.safetensors", 1000)
    os.truncate(folder / "w.safetensors", 900)


def pointer(folder: Path) -> None:
    (folder / "w.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")


def no_index(folder: Path) -> None:
    break_nothing(folder)
    (folder / "model_index.json").unlink()


@pytest.mark.parametrize(
    ("do", "verdict", "said"),
    [
        (break_nothing, PASS, "acme/sd: SomePipeline, 0.00 GiB of safetensors"),
        (pickled, FAIL, "pickled (unet/w.bin), which can run code"),
        (cut_short, FAIL, "w.safetensors is no safetensors file, or cut short"),
        (pointer, FAIL, "w.safetensors is a Git LFS pointer"),
        (lambda folder: None, FAIL, "it has no weights"),
        (no_index, FAIL, "no model in diffusers layout"),
    ],
)
def test_weights(tmp_path: Path, do: Callable[[Path], None], verdict: Verdict, said: str) -> None:
    """What a runner would refuse after a minute is found at once."""
    folder = tmp_path / "models" / "acme" / "sd"
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "SomePipeline"}')
    do(folder)
    found = worst(weights, sound_host(tmp_path, models=[{"model": "acme/sd"}], models_home=tmp_path / "models"))
    assert (found.verdict, said in found.text) == (verdict, True), found


def test_a_model_folder_that_is_missing(tmp_path: Path) -> None:
    """With the place where it has to lie."""
    found = worst(weights, sound_host(tmp_path, models=[{"model": "acme/sd"}], models_home=tmp_path))
    assert (found.verdict, str(tmp_path / "acme" / "sd") in found.text) == (FAIL, True)


def test_one_check_never_stops_the_next(tmp_path: Path) -> None:
    """It may fail by any exception, hang, or find nothing."""
    hung = threading.Event()
    checks = [
        Check("faulty", raises(RuntimeError("oops")), 5),
        Check("typed", raises(EngineError("no engine")), 5),
        Check("hangs", lambda host: [good(str(hung.wait(30)))], 0.05),
        Check("silent", lambda host: [], 5),
        Check("fine", lambda host: [good("fine")], 5),
    ]
    lines = list(examine(sound_host(tmp_path), checks))
    hung.set()
    assert [line.finding.verdict for line in lines] == [FAIL, FAIL, FAIL, FAIL, PASS]
    assert ["oops" in lines[0].finding.text, lines[1].finding.text] == [True, "no engine"]
    assert "no answer within 0.05 s" in lines[2].finding.text
    assert not healthy(lines)
    assert healthy(lines[4:])


def test_the_limit_can_be_chosen(tmp_path: Path) -> None:
    """For every check alike."""
    hung = threading.Event()
    lines = list(examine(sound_host(tmp_path), [Check("hangs", lambda host: [good(str(hung.wait(30)))], 60)], 0.05))
    hung.set()
    assert lines[0].finding.verdict is FAIL


def test_the_document(tmp_path: Path) -> None:
    """Its shape is what programs rely on; nothing in it controls a terminal."""
    checks = [Check("one", lambda host: [good("fine"), poor("\x1b[31mred", "do\nthis")], 5)]
    lines = list(examine(sound_host(tmp_path), checks))
    got = document("node", "a", lines)
    assert set(got) == {"node", "ok", "checks"}
    assert (got["node"], got["ok"]) == ("a", True)
    assert [set(row) for row in got["checks"]] == [{"check", "verdict", "text", "fix", "seconds"}] * 2
    assert [(row["verdict"], row["text"], row["fix"]) for row in got["checks"]] == [
        ("PASS", "fine", ""), ("WARN", " [31mred", "do this"),
    ]  # fmt: skip
    assert "\x1b" not in shown(lines[1]).plain
    assert (
        document("node", "a", [*lines, *examine(sound_host(tmp_path), [Check("x", lambda host: [bad("b", "f")], 5)])])[
            "ok"
        ]
        is False
    )


def test_the_tiny_job_without_a_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that ends at once is told of with its last words, long before the limit."""

    async def broken(settings: object, node_id: str) -> ProcessEngine:
        return ProcessEngine(("/bin/sh", "-c", "echo no such module; exit 1"))

    monkeypatch.setattr("orchestrator.doctor_checks_jobs.choose_engine", broken)
    check = next(check for check in CHECKS if check.name == "tiny job")
    found = worst(check.find, sound_host(tmp_path))
    assert found.verdict is FAIL
    assert "exit code 1: no such module" in found.text


def test_ports_any(tmp_path: Path) -> None:
    """Port 0 is always free."""
    host = sound_host(tmp_path, {"try_port": raises(AssertionError())}, grpc=Listener(), metrics=Listener())
    assert worst(ports, host).verdict is PASS
