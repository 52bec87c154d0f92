"""What the Docker engine is asked for, and what its answers are taken for: all that needs no engine."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.docker_container import DockerOptions, Placement, Weights, container_name, creation, environment
from orchestrator.docker_errors import TOOLKIT, GoneError, RefusedError, UnreachableError, explained, unreachable
from orchestrator.docker_facts import LOST, HostFacts, exit_of, host_facts, memory_bound
from orchestrator.docker_images import is_pinned
from orchestrator.docker_weights import weights_of
from orchestrator.engine import EngineError, Resources, RunnerSpec
from tests.fakes.docker_proxy import ALLOWED

OPTIONS = DockerOptions()
SPEC = RunnerSpec("sd-0", "acme/sd", "/srv/sd", "diffusers", "cuda:0", Path("/run/sd-0"), gpu="GPU-1", image="runner")
PLACEMENT = Placement("n" * 52, "sha256:1", "65534:65534", 2**30, Weights(Path("/srv/cache"), "snapshots/abc"))
INFO = {"ServerVersion": "28.1", "MemTotal": 10 * 2**30, "OSType": "linux", "SecurityOptions": ["name=seccomp"]}


@pytest.mark.parametrize(
    ("name", "pinned"),
    [
        ("registry:5000/runner@sha256:" + "a" * 64, True),
        ("sha256:" + "a" * 64, True),
        ("0123456789abcdef" * 4, True),
        ("0123456789ab", False),
        ("sha256:" + "a" * 63, False),
        ("runner:sha256", False),
        ("a" * 65, False),
    ],
)
def test_which_names_of_images_are_pinned(name: str, pinned: bool) -> None:
    """Those by a digest, and whole ids; part of an id may come to mean several images, or be a name."""
    assert is_pinned(name) is pinned


def test_a_runner_is_told_what_it_sees() -> None:
    """Paths of the container's, the model by its id, settings by environment; labels for the node's next start."""
    body = creation(SPEC, PLACEMENT, OPTIONS)
    words = body["Cmd"]
    assert words[words.index("--model") + 1] == "/model/snapshots/abc"
    assert words[words.index("--model-id") + 1] == "acme/sd"
    assert words[words.index("--socket") + 1] == "/run/reelnet/runner.sock"
    assert body["Labels"] == {
        "reelnet.node": "n" * 52,
        "reelnet.slot": "sd-0",
        "reelnet.spec": SPEC.fingerprint,
        "reelnet.image": "runner",
    }
    assert {(mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in body["HostConfig"]["Mounts"]} == {
        ("/run/sd-0", "/run/reelnet", False),
        ("/srv/cache", "/model", True),
    }


def test_a_runner_reaches_nothing() -> None:
    """No network, no rights, nothing to write but its own: whatever the spec says, and with each way to a GPU."""
    for spec in (SPEC, replace(SPEC, gpu=None)):
        host = creation(spec, PLACEMENT, OPTIONS)["HostConfig"]
        kept = ("NetworkMode", "ReadonlyRootfs", "CapDrop", "SecurityOpt", "Privileged", "IpcMode")
        assert {name: host[name] for name in kept} == {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "Privileged": False,
            "IpcMode": "private",
        }
        assert not host.keys() & {"PortBindings", "PublishAllPorts", "Links", "ExtraHosts", "PidMode", "UsernsMode"}


def test_compiled_code_has_a_place_of_its_own() -> None:
    """Writable, told to the runner over any flag, and there for a runner that compiles alone."""
    compiling = replace(SPEC, flags={"compile": "true", "compile_cache": "/tmp/other"})
    body = creation(compiling, replace(PLACEMENT, code=Path("/srv/compiled/1/code")), OPTIONS)
    assert "REELNET_RUNNER_COMPILE_CACHE=/compiled" in body["Env"]
    (mount,) = [mount for mount in body["HostConfig"]["Mounts"] if mount["Target"] == "/compiled"]
    assert (mount["Source"], mount["ReadOnly"]) == ("/srv/compiled/1/code", False)
    assert body["HostConfig"]["ReadonlyRootfs"] is True
    plain = creation(SPEC, PLACEMENT, OPTIONS)
    assert not any("COMPILE_CACHE" in word for word in plain["Env"])
    assert not any(mount["Target"] == "/compiled" for mount in plain["HostConfig"]["Mounts"])


def test_flags_do_not_win_over_the_node() -> None:
    """An operator's flag is passed on; what keeps a runner in its place is not theirs to change."""
    flags = {"dtype": "bfloat16", "idle_exit_s": "9999"}
    told = environment(replace(SPEC, flags=flags, resources=Resources(idle_exit_s=7)), OPTIONS)
    assert (told["REELNET_RUNNER_DTYPE"], told["REELNET_RUNNER_IDLE_EXIT_S"]) == ("bfloat16", "7")


@pytest.mark.parametrize(
    ("gpu", "form", "visible"),
    [("GPU-1", "device-request", "GPU-1"), ("GPU-1", "cdi", "void"), (None, "device-request", "void")],
)
def test_only_the_slots_gpu_is_visible(gpu: str | None, form: Any, visible: str) -> None:
    """By the older way its UUID, by the newer one nothing for the older to find; never `all`."""
    told = environment(replace(SPEC, gpu=gpu), replace(OPTIONS, gpu_request=form))
    assert told["NVIDIA_VISIBLE_DEVICES"] == visible
    assert ("CUDA_VISIBLE_DEVICES" in told) is (gpu is None)


@pytest.mark.parametrize("slot", ["sd-0", "acme/sd turbo:0", "ü"])
def test_any_slot_has_a_containers_name(slot: str) -> None:
    """As Docker allows it: letters, digits, dots, dashes."""
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", container_name("NODE" * 13, slot))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"OperatingSystem": "Docker Desktop"}, "virtual machine"),
        ({"OSType": "windows"}, "need Linux"),
        ({"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]}, "rootless"),
        ({"SecurityOptions": ["name=userns"]}, "userns-remap"),
    ],
)
def test_an_engine_that_does_not_suit_is_refused(change: dict[str, Any], reason: str) -> None:
    """Each with what stands against it."""
    with pytest.raises(EngineError, match=reason):
        host_facts({**INFO, **change})


def test_what_matters_of_an_engine() -> None:
    """Its version, live-restore, memory and init; a runner without a bound gets most of the host's memory."""
    facts = host_facts({**INFO, "LiveRestoreEnabled": True, "InitCommit": {"ID": "N/A"}})
    assert facts == HostFacts("28.1", 10 * 2**30, live_restore=True, init=False)
    assert host_facts({**INFO, "InitCommit": {"ID": ""}}).init
    assert host_facts({**INFO, "InitCommit": None, "SecurityOptions": None}).init
    assert (memory_bound(None, facts), memory_bound(5, facts)) == (9 * 2**30, 5)


@pytest.mark.parametrize(
    ("reported", "code"), [(0, 0), (2, 2), (128, 128), (137, -9), (139, -11), (143, -15), (192, -64), (255, 255)]
)
def test_a_signal_is_negative(reported: int, code: int) -> None:
    """As of a process: 128 and the number is how a container tells a signal."""
    told = exit_of({"State": {"ExitCode": reported}, "HostConfig": {}}, "words", engine_lost=False)
    assert (told.code, told.tail, told.oom_killed, told.why) == (code, "words", False, "")


def test_an_exit_says_why() -> None:
    """Memory before the engine's end, and that before nothing."""
    state = {"ExitCode": 137, "OOMKilled": True}
    told = exit_of({"State": state, "HostConfig": {"Memory": 2**31}}, "", engine_lost=True)
    assert told.oom_killed
    assert "2.0 GiB" in told.why
    assert exit_of({"State": {"ExitCode": 0}, "HostConfig": {}}, "", engine_lost=True).why == LOST
    refused = {"State": {"ExitCode": 127, "Error": "no such program"}, "HostConfig": {}}
    assert exit_of(refused, "", engine_lost=False).why == "no such program"


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        (500, 'could not select device driver "nvidia" with capabilities: [[gpu compute utility]]', TOOLKIT),
        (500, "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-1", "nvidia-ctk cdi generate"),
        (500, "error creating overlay mount: write /var/lib/docker/x: no space left on device", "is full: free space"),
        (500, "mkdir /var/lib/docker/x: No space left on device", "is full: free space"),
        (400, "invalid mount config: bind source path does not exist: /x", "has to run on this host"),
        (409, 'The container name "/x" is already in use by container "0f"', "docker rm"),
        (500, "something\nnew", "Docker says: something new"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, text: str, told: str) -> None:
    """What was tried, what it means, and what the engine said, on one line."""
    error = str(explained("runner x cannot be started", status, text))
    assert error.startswith("runner x cannot be started: ")
    assert told in error
    assert " ".join(text.split()) in error


def test_refusals_have_kinds() -> None:
    """What is gone and what its state does not allow can be told apart from what failed."""
    assert type(explained("x", 404, "no such container")) is GoneError
    assert type(explained("x", 409, "is not running")) is RefusedError
    assert type(explained("x", 500, "broken")) is EngineError
    assert type(unreachable("/s", ConnectionRefusedError())) is UnreachableError
    assert "group `docker`" in str(unreachable("/s", PermissionError(13, "Permission denied")))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A repo of a Hugging Face cache with one snapshot; returns the snapshot's folder."""
    repo = tmp_path / "models--acme--sd"
    snapshot = repo / "snapshots" / "abc"
    (repo / "blobs").mkdir(parents=True)
    (snapshot / "unet").mkdir(parents=True)
    (repo / "blobs" / "0f").write_bytes(b"weights")
    (snapshot / "unet" / "weights").symlink_to("../../../blobs/0f")
    return snapshot


def test_a_plain_folder_is_mounted_itself(tmp_path: Path) -> None:
    """Whatever link leads to it, and with links within it."""
    model = tmp_path / "sd"
    (model / "unet").mkdir(parents=True)
    (model / "unet" / "weights").write_bytes(b"weights")
    (model / "same").symlink_to("unet")
    (tmp_path / "link").symlink_to(model)
    assert weights_of(tmp_path / "link") == Weights(model.resolve())
    assert weights_of(model).seen == "/model"


def test_a_snapshot_is_mounted_with_its_blobs(cache: Path) -> None:
    """The repo's folder, and no other model of the cache."""
    weights = weights_of(cache)
    assert (weights.source, weights.seen) == (cache.parents[1].resolve(), "/model/snapshots/abc")


@pytest.mark.parametrize("target", ["../../../../other", "../../../../models--acme--sd/blobs/0f", "absolute"])
def test_a_link_that_leads_out_is_refused(cache: Path, target: str) -> None:
    """Also one that leads out and comes back, or is absolute: in a container neither does."""
    (cache.parents[2] / "other").write_bytes(b"other")
    (cache / "odd").symlink_to(cache / "unet" / "weights" if target == "absolute" else target)
    with pytest.raises(EngineError, match="odd: the link leads out"):
        weights_of(cache)


def test_each_hop_of_a_link_counts(cache: Path) -> None:
    """A link to a link that leads out leads out."""
    (cache / "outer").symlink_to("../../blobs/1e")
    (cache.parents[1] / "blobs" / "1e").symlink_to("/etc/hostname")
    with pytest.raises(EngineError, match="outer: the link leads out"):
        weights_of(cache)


def test_a_link_to_nothing_is_refused(cache: Path) -> None:
    """Half a download is told before a runner starts."""
    (cache / "gone").symlink_to("../../blobs/2d")
    with pytest.raises(EngineError, match="gone: the link leads to nothing"):
        weights_of(cache)
    with pytest.raises(EngineError, match="folder is missing"):
        weights_of(cache / "no such")


@pytest.mark.parametrize(("path", "mode"), [("blobs/0f", 0o600), ("blobs", 0o700), ("snapshots/abc/unet", 0o700)])
def test_what_the_runner_could_not_read_is_named(cache: Path, path: str, mode: int) -> None:
    """A file, or a folder on the way to it, that is closed to the runner's user; open to its owner."""
    repo = cache.parents[1]
    assert weights_of(cache, 12345)
    (repo / path).chmod(mode)
    with pytest.raises(EngineError, match=f"{path}: the runner's user .12345. cannot read"):
        weights_of(cache, 12345)
    assert weights_of(cache, (repo / path).stat().st_uid)


def test_every_call_is_written_down() -> None:
    """SECURITY.md lists the calls that the filter passes, no more and no fewer."""
    text = (Path(__file__).parents[3] / "SECURITY.md").read_text("utf-8")
    listed = re.findall(r"^\| `(GET|POST|DELETE) (/[^`]+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted(ALLOWED)
