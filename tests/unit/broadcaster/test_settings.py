"""A broadcaster's configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from broadcaster.settings import DEFAULT_DEADLINE_S, BroadcasterSettings
from reelnet.errors import ConfigError
from reelnet.settings import load

NODE_ID = "ae" * 26
EXAMPLE = """
http:    {host: 127.0.0.1, port: 9935}
metrics: {host: 127.0.0.1, port: 5935}
public_url: null    # base of media links
orchestrators:
  - 127.0.0.1:8935  # address#node-id
database: sqlite    # or postgresql://…
media: {ttl_s: 3600}
limits: {deadline_s: {image-to-video: 300}, price: {image-to-video: "0.05"}}
default_models: {text-to-image: acme/sdxl}
catalogue: {acme/svd: {digests: [abc], defaults: {num_frames: 25}}}
"""


def read(tmp_path: Path, text: str) -> BroadcasterSettings:
    """The settings of a file."""
    file = tmp_path / "broadcaster.yaml"
    file.write_text(text)
    return load(BroadcasterSettings, file)


def fault(tmp_path: Path, text: str) -> str:
    """What is said of a file, without its name."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return str(caught.value).replace(str(tmp_path), "")


def test_the_designs_example(tmp_path: Path) -> None:
    """The file that the documents show is read, value by value."""
    settings = read(tmp_path, EXAMPLE)
    assert (settings.http.port, settings.metrics.port, settings.public_url) == (9935, 5935, None)
    assert settings.orchestrators == ("127.0.0.1:8935",)
    assert settings.deadline_s("image-to-video") == 300
    assert settings.deadline_s("upscale") == DEFAULT_DEADLINE_S
    assert settings.ceiling_nano("image-to-video") == 50_000_000
    assert settings.ceiling_nano("upscale") is None
    assert settings.catalogue["acme/svd"].defaults == {"num_frames": 25}


def test_a_file_is_not_needed() -> None:
    """Without one a broadcaster starts on its ports, without nodes, open to its own host's programs alone."""
    settings = load(BroadcasterSettings)
    assert (settings.http.host, settings.http.port, settings.metrics.port) == ("127.0.0.1", 9935, 5935)
    assert (settings.orchestrators, settings.keys_file, settings.cors_origins) == ((), None, ())


def test_nodes_come_from_flags(tmp_path: Path) -> None:
    """A flag's list takes the place of the file's."""
    file = tmp_path / "broadcaster.yaml"
    file.write_text(EXAMPLE)
    flagged = load(BroadcasterSettings, file, {"orchestrators": ["[::1]:1", "node.example:2"], "http": {"port": 0}})
    assert flagged.orchestrators == ("[::1]:1", "node.example:2")
    assert (flagged.http.host, flagged.http.port) == ("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("orchestrator: []", "unknown key; did you mean 'orchestrators'?"),
        ("orchestrators: [127.0.0.1]", "orchestrators.0: '127.0.0.1' is no address: expected host:port"),
        ("orchestrators: ['127.0.0.1:8935#me']", "is no node id"),
        ("limits: {deadline_s: {image-to-vide: 3}}", "did you mean 'image-to-video'?"),
        ("limits: {price: {upscale: cheap}}", "is no amount"),
        ("limits: {price: {upscale: '1e-6'}}", "is no amount"),
        ("limits: {job: 3}", "limits.job: unknown key; did you mean 'jobs'?"),
        ("limits: {attempts: 0}", "limits.attempts"),
        ("limits: {jobs_per_key: 2}", "limits.jobs_per_key: without `keys_file` there is no key to count by"),
        ("selection: {sample: 0}", "selection.sample"),
        ("selection: {exploration: 1.5}", "selection.exploration"),
        ("catalogue: {a: {digest: []}}", "catalogue.a.digest: unknown key; did you mean 'digests'?"),
        ("catalogue: {a: {defaults: {num_frame: 3}}}", "did you mean 'num_frames'?"),
        ("default_models: {upscal: a}", "did you mean 'upscale'?"),
        ("journal: never", "journal"),
        ("http: {host: 0.0.0.0}", "not a loopback address"),
        ("public_url: example.org", "public_url"),
        ("name: a/b", "name"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, said: str) -> None:
    """Where it stands, what is wrong, and what to write."""
    assert said in fault(tmp_path, text)


def test_a_price_that_is_a_float_is_refused_with_a_hint(tmp_path: Path) -> None:
    """A YAML number is a binary fraction: the error says to quote it, as a node's does."""
    said = fault(tmp_path, "limits: {price: {upscale: 0.05}}")
    assert "limits.price.upscale: write amounts as text" in said
