"""A node's configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings import OrchestratorSettings, SyntheticOptions
from reelnet.errors import ConfigError
from reelnet.pricing import Rates
from reelnet.settings import load

EXAMPLE = """
grpc:    {host: 127.0.0.1, port: 8935}
metrics: {host: 127.0.0.1, port: 7935}
engine: auto
models:
  - model: acme/sdxl
    pipelines: {text-to-image: {price: {mpix_step: "0.0000045"}}}
    replicas: 1
    queue: 8
    backend: diffusers
  - model: ./weights/svd
    id: acme/svd
    backend: {synthetic: {unit_s: 0.001, faults: [{after_jobs: 3, kind: oom}]}}
broadcasters: null
"""


def read(tmp_path: Path, text: str) -> OrchestratorSettings:
    """The settings of a file."""
    file = tmp_path / "orchestrator.yaml"
    file.write_text(text)
    return load(OrchestratorSettings, file)


def fault(tmp_path: Path, text: str) -> str:
    """What is said of a file, without its name."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return str(caught.value).replace(str(tmp_path), "")


def test_the_designs_example(tmp_path: Path) -> None:
    """The file that the documents show is read, value by value."""
    settings = read(tmp_path, EXAMPLE)
    assert (settings.grpc.port, settings.metrics.port, settings.engine) == (8935, 7935, "auto")
    sdxl, svd = settings.models
    assert sdxl.pipelines["text-to-image"].rates == Rates(mpix_step=4500)
    assert (sdxl.model_id, sdxl.is_folder, sdxl.replicas, sdxl.queue, sdxl.backend) == (
        "acme/sdxl", False, 1, 8, "diffusers",
    )  # fmt: skip
    assert (svd.model_id, svd.is_folder) == ("acme/svd", True)
    assert isinstance(svd.backend, SyntheticOptions)
    assert (svd.backend.unit_s, svd.backend.faults[0].after_jobs, svd.backend.faults[0].kind) == (0.001, 3, "oom")


def test_a_file_is_not_needed() -> None:
    """Without one a node starts on its ports, and sells nothing."""
    settings = load(OrchestratorSettings)
    assert (settings.grpc.host, settings.grpc.port, settings.metrics.port) == ("127.0.0.1", 8935, 7935)
    assert (settings.models, settings.broadcasters) == ((), None)


@pytest.mark.parametrize(
    ("backend", "unit_s"),
    [("synthetic", 0.001), ("{synthetic: {}}", 0.001), ("{synthetic: }", 0.001), ("{synthetic: {unit_s: 2}}", 2)],
)
def test_forms_of_the_synthetic_backend(tmp_path: Path, backend: str, unit_s: float) -> None:
    """A word, or a key with options."""
    options = read(tmp_path, f"models: [{{model: a/b, backend: {backend}}}]").models[0].backend
    assert isinstance(options, SyntheticOptions)
    assert options.unit_s == unit_s


@pytest.mark.parametrize(("model", "model_id"), [("a/b", "a/b"), ("./x/b", "b"), ("/x/b", "b"), ("~/b", "b")])
def test_a_folder_is_called_by_its_name(tmp_path: Path, model: str, model_id: str) -> None:
    """An id is an id; a folder's last part is, where none is given."""
    assert read(tmp_path, f"models: [{{model: {model}}}]").models[0].model_id == model_id


def test_a_price_that_is_a_float_is_refused(tmp_path: Path) -> None:
    """A YAML number is a binary fraction, and a price is exact: the error shows the form."""
    said = fault(tmp_path, "models: [{model: a/b, pipelines: {upscale: {price: {mpix_step: 0.0000045}}}}]")
    assert "models.0.pipelines.upscale.price" in said
    assert 'write amounts as text, such as "0.0000045"' in said
    whole = read(tmp_path, "models: [{model: a/b, pipelines: {upscale: {price: {job: 2}}}}]")
    assert whole.models[0].pipelines["upscale"].rates == Rates(job=2 * 10**9), "a whole number is exact"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [{modle: a/b}]", "models.0.modle: unknown key; did you mean 'model'?"),
        ("models: [{model: a, pipelines: {upscale: {prise: {}}}}]", "upscale.prise: unknown key; did you mean 'price'"),
        ("models: [{model: a, pipelines: {upscal: {}}}]", "did you mean 'upscale'?"),
        ('models: [{model: a, pipelines: {upscale: {price: {mpixstep: "1"}}}}]', "unknown rate 'mpixstep'"),
        ('models: [{model: a, pipelines: {upscale: {price: {job: "1e-6"}}}}]', "is no amount"),
        ("models: [{model: a, backend: {synthetic: {unit: 1}}}]", "did you mean 'unit_s'?"),
        (
            "models: [{model: a, backend: {synthetic: {families: {image-to-video: sd}}}}]",
            "image-to-video has no family 'sd'",
        ),
        ("models: [{model: a, backend: onnx}]", "expected diffusers, synthetic"),
        ("models: [{model: a}, {model: a}]", "'a' stands twice; use `replicas`"),
        ("models: [{model: a}, {model: ./x/a}]", "'a' stands twice"),
        ("models: [{model: ''}]", "models.0.model"),
        ("models: [{model: a, replicas: 0}]", "models.0.replicas"),
        ("models: [{model: a, queue: -1}]", "models.0.queue"),
        ("broadcasters: [me]", "is no broadcaster id"),
        ("devices: []", "devices"),
        ("devices: [gpu0]", "is no device"),
        ("name: ../x", "name"),
        ("engine: podman", "engine"),
        ("grpc: {host: 0.0.0.0}", "not a loopback address"),
        ("limits: {job: 3}", "limits.job: unknown key"),
        ("limits: {input_s: 0}", "limits.input_s"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, text: str, said: str) -> None:
    """Where it stands, what is wrong, and what to write."""
    assert said in fault(tmp_path, text)
