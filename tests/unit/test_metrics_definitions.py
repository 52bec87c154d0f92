"""Every metric of every component: its name, unit and labels follow the conventions, and the page lists it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from broadcaster import broadcaster_metrics
from orchestrator import gpu_metrics, node_metrics, runner_metrics
from reelnet import runner_metrics as runner
from reelnet.metrics import BUILD, SECONDS, Family, Kind

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = {
    "every": (BUILD,),
    "broadcaster": broadcaster_metrics.FAMILIES,
    "orchestrator": node_metrics.FAMILIES,
    "gpus": gpu_metrics.FAMILIES,
    "runner": runner.FAMILIES,
    "passed on": runner_metrics.FAMILIES,
}
EVERY = [pytest.param(f, id=f"{name}-{f.name}") for name, families in COMPONENTS.items() for f in families]
SUFFIX = {
    "": "",
    "seconds": "_seconds",
    "bytes": "_bytes",
    "dollars": "_dollars",
    "rows": "_rows",
    "pixels": "_pixels",
    "ratio": "_ratio",
    "celsius": "_celsius",
    "watts": "_watts",
    "pixels × steps": "_pixel_steps",
}
MODULES = {"broadcaster": broadcaster_metrics, "orchestrator": node_metrics, "gpus": gpu_metrics, "runner": runner}


@pytest.mark.parametrize("family", EVERY)
def test_a_name_ends_in_its_unit(family: Family) -> None:
    """Base units stand in names, and `_total` on counters and on nothing else."""
    stem = family.name.removesuffix("_total")
    assert (family.kind is Kind.COUNTER) == family.name.endswith("_total")
    assert stem.endswith(SUFFIX[family.unit])
    assert family.name.startswith("reelnet_")
    assert family.meaning.endswith(".")


@pytest.mark.parametrize("family", EVERY)
def test_labels_are_bounded(family: Family) -> None:
    """Each says where its values come from, none names a peer, a job or a slot, and none is Prometheus' own.

    A `key` is a name of the operator's file, never the key.
    """
    names = family.label_names
    assert len(names) == len(set(names))
    assert not {"node", "node_id", "slot", "job", "instance", "address", "code", "le", "quantile"} & set(names)
    assert all(label.values for label in family.labels)
    assert all(label.values.startswith("the names of the keys") for label in family.labels if label.name == "key")


def test_no_name_means_two_things() -> None:
    """A metric belongs to one component; one that is passed on keeps its name and gains the model."""
    names = [family.name for name, families in COMPONENTS.items() if name != "passed on" for family in families]
    assert len(names) == len(set(names))
    for own, passed in zip(runner.FAMILIES, runner_metrics.FAMILIES, strict=True):
        assert (own.name, own.kind, own.meaning) == (passed.name, passed.kind, passed.meaning)
        assert passed.label_names == (own.label_names[0], "model", *own.label_names[1:])


@pytest.mark.parametrize("name", MODULES)
def test_every_definition_is_listed(name: str) -> None:
    """A family that stands in a component's file stands in its `FAMILIES`, so that the page has it."""
    defined = {value.name for value in vars(MODULES[name]).values() if isinstance(value, Family)}
    assert defined == {family.name for family in MODULES[name].FAMILIES}


def test_buckets_go_from_a_tenth_of_a_second_to_ten_minutes() -> None:
    """One set of buckets for all, so that stages of different components can be laid side by side."""
    assert (SECONDS[0], SECONDS[-1]) == (0.1, 600)
    assert sorted(set(SECONDS)) == list(SECONDS)


def test_the_page_is_up_to_date_and_whole() -> None:
    """docs/metrics.md is what scripts/metrics.py writes, and has a line for each metric and label."""
    script = metrics_script()
    text = script.FILE.read_text("utf-8")
    assert text == script.document(), "run make metrics"
    for families in COMPONENTS.values():
        for family in families:
            assert f"| `{family.name}` | {family.kind}" in text
            assert all(f"| `{label.name}` |" in text for label in family.labels)


def test_drift_of_the_page_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails for a page that is missing or differs, and writes nothing."""
    script, file = metrics_script(), tmp_path / "metrics.md"
    monkeypatch.setattr(script, "FILE", file)
    monkeypatch.setattr("sys.argv", ["metrics.py", "--check"])
    assert script.main() == 1
    assert not file.exists()
    file.write_text(script.document() + "\n", "utf-8")
    assert script.main() == 1
    assert "make metrics" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["metrics.py"])
    assert script.main() == 0
    monkeypatch.setattr("sys.argv", ["metrics.py", "--check"])
    assert script.main() == 0


def metrics_script() -> ModuleType:
    """scripts/metrics.py as a module; scripts are no package."""
    spec = importlib.util.spec_from_file_location("metrics_script", ROOT / "scripts" / "metrics.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
