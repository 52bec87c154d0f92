"""What a node has learned about its models, from one start to the next."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from orchestrator import model_facts, model_shelf
from orchestrator.model_facts import (
    GUESSED_BYTES_PER_S,
    GUESSED_FACTOR,
    GUESSED_LOAD_S,
    GUESSED_OVERHEAD_BYTES,
    FactBook,
    ModelFacts,
    load_estimate_s,
    need_bytes,
    source_of,
    weights_bytes,
)
from orchestrator.model_shelf import ModelShelf
from orchestrator.runner_answers import AnswerError, RunnerInfo, described_bytes
from orchestrator.settings import ModelSettings
from reelnet.jobs import Licence

INFO = RunnerInfo(
    "d" * 64, {"upscale": "upscale/esrgan@1"}, Licence("MIT", "yes"), {"lora": "f" * 64}, 7, {"upscale": ("safety",)}
)
GIB = 2**30


def model(**more: Any) -> ModelSettings:
    return ModelSettings.model_validate({"model": "acme/sd", **more})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model's folder."""
    folder = tmp_path / "sd" / "unet"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(1000))
    (folder / "config.json").write_text("{}")
    (folder.parent / "old.bin").write_bytes(bytes(10))
    return folder.parent


def test_a_book_is_read_as_it_was_written(tmp_path: Path) -> None:
    """All of it, by the next start."""
    book = FactBook(tmp_path / "models.json")
    book.learn_info("acme/sd", "s", INFO)
    book.learn_need("acme/sd", "s", 5)
    book.learn_load("acme/sd", "s", 2.5)
    book.learn_load("acme/bare", "t", 1.0)
    book.write(book.text())
    again = FactBook(tmp_path / "models.json")
    assert again.of("acme/sd", "s") == book.of("acme/sd", "s") == ModelFacts("s", INFO, 5, 2.5)
    assert again.of("acme/bare", "t") == ModelFacts("t", None, None, 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["models.json"]


def test_facts_hold_while_their_source_does() -> None:
    """Other files under the same name are another model, of which nothing is known."""
    book = FactBook(Path("nowhere"))
    book.learn_need("acme/sd", "s", 5)
    assert book.of("acme/sd", "other") == ModelFacts("other")
    book.learn_load("acme/sd", "other", 3.0)
    assert book.of("acme/sd", "other") == ModelFacts("other", load_s=3.0), "the old need is gone"


def test_the_most_memory_and_the_latest_loads_count() -> None:
    """A need never shrinks; a load's time follows what it takes now."""
    book = FactBook(Path("nowhere"))
    for size in (3, 9, 5):
        book.learn_need("m", "s", size)
    for seconds in (10.0, 20.0, 20.0):
        book.learn_load("m", "s", seconds)
    assert book.of("m", "s").need_bytes == 9
    assert book.of("m", "s").load_s == 17.5


MANY = {f"lora-{i}": "f" * 64 for i in range(1000)}
GOOD = {"source": "s", "need_bytes": 5, "load_s": 2.5, "info": asdict(INFO)}
DAMAGED = [
    "", "[", "[]", "3", '{"m": 1}', '{"m": {}}', "\x00", "[" * 100_000, '{"m": {"source": "\\ud800"}}',
    *(
        json.dumps({"ok": GOOD, "m": GOOD | other})
        for other in (
            {"source": 3}, {"info": {"digest": 1}}, {"info": {}}, {"info": asdict(INFO) | {"memory_bytes": -5}},
            {"info": asdict(INFO) | {"memory_bytes": 2**70}}, {"info": asdict(INFO) | {"loras": []}},
            {"info": asdict(INFO) | {"digest": "d" * 2_000_000}}, {"info": asdict(INFO) | {"schemas": {"a\n": "b"}}},
            {"info": asdict(INFO) | {"licence": {"id": "x" * 257, "commercial": ""}}},
            {"info": asdict(INFO) | {"licence": {"id": "", "commercial": "x" * 257}}},
            {"info": asdict(INFO) | {"licence": {"id": "a\nb", "commercial": ""}}},
            {"info": asdict(INFO) | {"schemas": dict.fromkeys(map(str, range(65)), "")}},
            {"info": asdict(INFO) | {"features": {str(i): [] for i in range(65)}}},
            {"info": asdict(INFO) | {"loras": MANY, "schemas": dict.fromkeys("abcdefgh", "")}},
            {"need_bytes": -1}, {"need_bytes": 1.5}, {"need_bytes": 2**63}, {"need_bytes": "5"},
            {"load_s": -1}, {"load_s": float("nan")}, {"load_s": 1e308}, {"load_s": "2"},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_book_is_put_aside_and_begun_anew(tmp_path: Path, text: str) -> None:
    """A node starts with it all the same, says so, and learns again; what was in the file can be looked at."""
    path = tmp_path / "models.json"
    path.write_text(text)
    with capture_logs() as logs:
        book = FactBook(path)
    assert book.of("ok", "s") == book.of("m", "s") == ModelFacts("s")
    assert not path.exists()
    assert (tmp_path / "models.json.damaged").read_text() == text
    assert [(entry["event"], entry["file"]) for entry in logs] == [("a damaged file was put aside", str(path))]
    assert "models.json" in logs[0]["reason"]
    book.learn_info("m", "s", INFO)
    book.write(book.text())
    assert FactBook(path).of("m", "s").info == INFO


def test_a_book_of_another_version_is_read(tmp_path: Path) -> None:
    """Fields of a later one are ignored; a whole number is a time too. A book that is not there is an empty one."""
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"m": GOOD | {"load_s": 2, "later": 1, "info": asdict(INFO) | {"later": 2}}}))
    assert FactBook(path).of("m", "s") == ModelFacts("s", INFO, 5, 2.0)
    with capture_logs() as logs:
        assert FactBook(tmp_path / "none.json").of("m", "s") == ModelFacts("s")
    assert logs == []


def test_a_book_that_is_too_long_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing reads a file of any length into memory."""
    monkeypatch.setattr(model_facts, "BOOK_BYTES", 10)
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"m": GOOD}))
    assert FactBook(path).of("m", "s") == ModelFacts("s")
    assert not path.exists()


async def test_descriptions_of_all_models_have_room_together(tmp_path: Path, weights: Path) -> None:
    """A runner whose word would make the node's description too long is not taken for ready."""
    shelf = ModelShelf(FactBook(tmp_path / "models.json"), lambda _: weights)
    long = replace(INFO, loras=MANY)
    room = model_shelf.DESCRIBED_BYTES // described_bytes(long)
    for number in range(room):
        shelf.ready(model(model=f"acme/{number}"), long)
    with pytest.raises(AnswerError, match="describe"):
        shelf.ready(model(model="acme/more"), long)
    shelf.ready(model(model="acme/0"), long)
    shelf.ready(model(model="acme/small"), INFO)


def test_a_book_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    """Nor does it lose what stands there."""
    path = tmp_path / "models.json"
    path.write_text("{}")
    (tmp_path / "models.new").mkdir()
    FactBook(path).write("torn")
    assert path.read_text() == "{}"


def test_the_source_is_the_files_and_what_reads_them(weights: Path) -> None:
    """Content by size and time, names, backend, flags and pipelines; not what leaves the runner as it is."""
    first = source_of(model(), weights)
    assert first == source_of(model(queue=3, warm=False, replicas=2, memory_bytes=5), weights)
    others = {
        source_of(model(flags={"dtype": "float16"}), weights),
        source_of(model(pipelines={"upscale": {}}), weights),
        source_of(model(backend={"synthetic": {}}), weights),
        source_of(model(), None),
    }
    (weights / "unet" / "config.json").write_text("{ }")
    others.add(source_of(model(), weights))
    os.utime(weights / "old.bin", (1, 1))
    others.add(source_of(model(), weights))
    (weights / "old.bin").rename(weights / "new.bin")
    others.add(source_of(model(), weights))
    assert len(others | {first}) == 8


def test_prices_are_no_source(weights: Path) -> None:
    """A reload of rates loads nothing anew."""
    cheap, dear = (model(pipelines={"upscale": {"price": {"job": cost}}}) for cost in ("0.1", "0.2"))
    assert source_of(cheap, weights) == source_of(dear, weights)


def test_weights_are_counted(weights: Path) -> None:
    """Files of weights alone, wherever they lie; a synthetic model has none."""
    assert weights_bytes(weights) == 1010
    assert weights_bytes(None) == 0
    (weights / "gone.pt").symlink_to("nowhere")
    assert weights_bytes(weights) == 1010


def test_the_need_is_the_operators_word_else_measured_else_guessed() -> None:
    """In that order; only a guess is no knowledge."""
    measured = ModelFacts("s", need_bytes=5)
    assert need_bytes(model(memory_bytes=3), measured, GIB) == (3, True)
    assert need_bytes(model(), measured, GIB) == (5, True)
    assert need_bytes(model(), ModelFacts("s"), GIB) == (int(GIB * GUESSED_FACTOR) + GUESSED_OVERHEAD_BYTES, False)
    assert need_bytes(model(backend="synthetic"), ModelFacts("s"), 0) == (0, True)


def test_a_load_is_estimated() -> None:
    """As measured, else by the size of the weights."""
    assert load_estimate_s(ModelFacts("s", load_s=2.0), GIB) == 2.0
    assert load_estimate_s(ModelFacts("s"), 10 * GUESSED_BYTES_PER_S) == GUESSED_LOAD_S + 10


async def test_the_shelf_keeps_what_is_learned(tmp_path: Path, weights: Path) -> None:
    """However quickly it comes, the file ends as the newest book; the files are looked at once."""
    looks: list[str] = []

    def folder_of(wanted: ModelSettings) -> Path:
        looks.append(wanted.model_id)
        return weights

    book = FactBook(tmp_path / "models.json")
    shelf, sd = ModelShelf(book, folder_of), model()
    assert not shelf.knows(sd)
    assert shelf.load_s(sd) == pytest.approx(GUESSED_LOAD_S, abs=0.01)
    for size in range(1, 50):
        shelf.measured(sd, size)
        shelf.measured(sd, 1)
    shelf.loaded(sd, 4.0)
    shelf.ready(sd, INFO)
    assert shelf.knows(sd)
    assert (shelf.facts(sd).need_bytes, shelf.load_s(sd), shelf.weights_bytes(sd)) == (49, 4.0, 1010)
    async with asyncio.timeout(5):
        while not (tmp_path / "models.json").exists() or (tmp_path / "models.json").read_text() != book.text():
            await asyncio.sleep(0.005)
    assert json.loads(book.text())["acme/sd"]["need_bytes"] == 49
    assert looks == ["acme/sd"]
    shelf.facts(model(queue=2))
    assert looks == ["acme/sd", "acme/sd"], "after a reload, again"
