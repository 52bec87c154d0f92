"""What a runner says of itself becomes bounded, typed values, or one error that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.runner_answers import (
    MAX_BYTES,
    MAX_DESCRIBED_BYTES,
    AnswerError,
    Health,
    RunnerInfo,
    described_bytes,
    read_health,
    read_info,
    read_refusal,
)
from reelnet.codec import description_from_bytes, description_to_bytes
from reelnet.errors import NodeError, RefusedError, UnsupportedError, UserError
from reelnet.jobs import Capability, Description, Licence, NodeId
from reelnet.pricing import Rates

INFO: dict[str, Any] = {
    "model": "acme/sd",
    "digest": "d" * 64,
    "licence": {"id": "MIT", "commercial": "yes", "later": 1},
    "pipelines": [{"pipeline": "upscale", "schema": "upscale/x4@3", "class": "C", "features": ["safety"]}],
    "lora_digests": {"lora": "f" * 64, "unknown": ""},
    "vram_bytes": 8,
    "later": {"than": "this version"},
}
NOT_JSON = [
    b"",
    b"{",
    b"[]",
    b"3",
    b"null",
    b"\xff",
    b"[" * 100_000,
    b'{"digest":"\\ud800"}',
    b'{"digest":"\xed\xa0\x80"}',
]


def info(**other: Any) -> bytes:
    return json.dumps(INFO | other).encode()


def served(name: str = "upscale", schema: str = "upscale/x4@3", **other: Any) -> dict[str, Any]:
    return {"pipeline": name, "schema": schema, **other}


def description_of(said: RunnerInfo) -> bytes:
    """What the node would tell of a model."""
    offers = tuple(
        Capability(
            pipeline, schema, "", said.digest, Rates(), said.licence, said.loras,
            memory_bytes=said.memory_bytes, features=said.features.get(pipeline, ()),
        )
        for pipeline, schema in said.schemas.items()
    )  # fmt: skip
    return description_to_bytes(Description(NodeId(""), "", 1, 1, 1, offers))


def test_what_a_runner_says_is_read() -> None:
    """Fields of a later version are ignored; what an earlier one does not tell has a neutral value."""
    schemas, features = {"upscale": "upscale/x4@3"}, {"upscale": ("safety",)}
    loras = {"lora": "f" * 64, "unknown": ""}
    assert read_info(info()) == RunnerInfo("d" * 64, schemas, Licence("MIT", "yes"), loras, 8, features)
    bare = {"digest": "", "licence": INFO["licence"], "pipelines": [served()]}
    said = read_info(json.dumps(bare).encode())
    assert said == RunnerInfo("", schemas, Licence("MIT", "yes"), {}, 0, {"upscale": ()})
    assert read_info(info(vram_bytes=None)).memory_bytes == 0
    assert read_info(info(vram_bytes=MAX_BYTES)).memory_bytes == MAX_BYTES


@pytest.mark.parametrize("text", NOT_JSON)
def test_what_is_no_json_is_no_answer(text: bytes) -> None:
    """However it is broken, and however deep it goes."""
    for read in (read_info, read_health):
        with pytest.raises(AnswerError):
            read(text)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("digest", [None, 7, "d" * 65, "D" * 64, "x" * 2_000_000]),
        (
            "licence",
            [None, [], {"id": "MIT"}, {"id": "a\nb", "commercial": "yes"}, {"id": "x" * 257, "commercial": ""}],
        ),
        ("pipelines", [None, {}, [None], [{}], [served()] * 65, [served()] * 20_000, [served(features="x")]]),
        ("pipelines", [[served("x" * 257)], [served("\u202e")], [served(schema=7)], [served(features=["x"] * 65)]]),
        ("lora_digests", [None, [], {"a": None}, {"a": "x"}, {"\0": ""}, {"a" * 257: ""}]),
        ("lora_digests", [{str(i): "" for i in range(1001)}]),
        ("vram_bytes", [-5, 2**63, 2**70, 1.5, "8", True, [], float("inf"), float("nan")]),
    ],
)
def test_a_field_that_is_not_what_it_should_be_is_named(field: str, values: list[Any]) -> None:
    """The runner's own text is not repeated."""
    for value in values:
        with pytest.raises(AnswerError, match=f"^/info: {field}") as caught:
            read_info(info(**{field: value}))
        assert len(str(caught.value)) < 400
        assert str(caught.value).isprintable()
    text = info().replace(b'"vram_bytes": 8', b'"vram_bytes": 1e999')
    with pytest.raises(AnswerError, match="vram_bytes"):
        read_info(text)


def test_what_is_known_can_be_described() -> None:
    """The most of everything is either refused, or small enough and within the message's fields."""
    wide = [served(f"p{i}", features=["safety"]) for i in range(64)]
    loras = {f"lora-{i}": "f" * 64 for i in range(1000)}
    with pytest.raises(AnswerError, match="describe"):
        read_info(info(pipelines=wide, lora_digests=loras))
    for said in (
        read_info(info(pipelines=wide, vram_bytes=MAX_BYTES)),
        read_info(info(pipelines=wide[:2], lora_digests=loras)),
        read_info(info(lora_digests={"ü" * 200 + str(i): "" for i in range(200)})),
    ):
        told = description_of(said)
        assert len(told) <= described_bytes(said) + 64 <= MAX_DESCRIBED_BYTES + 64
        assert len(description_from_bytes(told).capabilities) == len(said.schemas)


@pytest.mark.parametrize(
    ("said", "health"),
    [
        ({"state": "READY"}, Health("READY")),
        ({"state": "READY", "reason": None, "memory_bytes": None, "later": 1}, Health("READY")),
        ({"state": "DEFUNCT", "reason": "a\nb", "memory_bytes": 5}, Health("DEFUNCT", "a b", 5)),
        ({"state": "X\n" * 50, "reason": "y" * 999}, Health("X " * 15 + "X…", "y" * 299 + "…")),
    ],
)
def test_a_state_is_read(said: dict[str, Any], health: Health) -> None:
    """With its reason, made printable, and the memory, if it is told."""
    assert read_health(json.dumps(said).encode()) == health


@pytest.mark.parametrize(
    "said",
    [
        {}, {"state": 3}, {"state": None}, {"state": "READY", "reason": []}, {"state": "READY", "memory_bytes": -1},
        {"state": "READY", "memory_bytes": 2**63}, {"state": "READY", "memory_bytes": "much"},
        {"state": "READY", "memory_bytes": 1.5},
    ],
)  # fmt: skip
def test_a_state_that_is_none_is_no_answer(said: dict[str, Any]) -> None:
    """No value is guessed."""
    with pytest.raises(AnswerError, match=r"^/health: "):
        read_health(json.dumps(said).encode())


def test_a_refusal_is_what_it_says() -> None:
    """Its class and code where the job is at fault; another status, or a text that is none, is the node's failure."""
    body = json.dumps(
        {"detail": {"msg": "other\nwork", "class": "refused", "code": "work"}, "class": "refused"}
    ).encode()
    refused = read_refusal(422, body)
    assert (type(refused), refused.code, refused.message) == (RefusedError, "work", "other work")
    rows = json.dumps({"detail": [{"loc": ["x"], "msg": "bad", "type": "t"}], "class": "unsupported"}).encode()
    assert (type(read_refusal(422, rows)), read_refusal(422, rows).message) == (UnsupportedError, "bad")
    assert type(read_refusal(400, b"{}")) is UserError
    assert (type(read_refusal(409, body)), read_refusal(409, body).code) == (NodeError, "runner_409")
    for rows_of, told in ((["x" * 90] * 9, "; ".join(["x" * 90] * 5)), (["x" * 300, "y\n"], "x" * 199 + "…; y ")):
        many = {"detail": [{"msg": text} for text in rows_of]}
        assert read_refusal(422, json.dumps(many).encode()).message == told
    for bad in ({"detail": {"msg": "m", "code": "a\nb"}}, {"detail": {"msg": "m", "code": "x" * 257}}):
        assert read_refusal(422, json.dumps(bad).encode()).code == "runner_refused"
    assert read_refusal(422, b'{"detail": {"msg": "m"}, "class": "a\\nb"}').message == "HTTP 422"
    for text in (*NOT_JSON, b'{"detail": []}', b'{"detail": 3}', b'{"detail": {"msg": 3}}'):
        assert read_refusal(500, text).code == "runner_500"
        assert read_refusal(422, text).code == "runner_refused"
