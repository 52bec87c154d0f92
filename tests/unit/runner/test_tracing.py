"""Memory of calls that are never computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runner.memory_budget import Table

torch = pytest.importorskip("torch", reason="needs the extra: diffusers")
pytestmark = pytest.mark.diffusers
FLOAT = 4


def test_the_peak_is_of_what_lives_at_one_moment() -> None:
    """What is dropped is free again, a view takes nothing, an operation on the spot neither."""
    from runner.models.tracing import peak_bytes

    def call() -> None:
        first = torch.empty(100)
        second = first + 1
        del first
        second.view(10, 10).mul_(2)
        third = torch.cat([second, second])
        del second, third
        torch.empty(120)

    assert peak_bytes(call) == (100 + 200) * FLOAT


def test_weights_do_not_count() -> None:
    """They are there before and after."""
    from runner.models.tracing import META, peak_bytes

    net = torch.nn.Linear(1000, 10, device=META)
    assert peak_bytes(lambda: net(torch.empty(1, 1000))) == (1000 + 10) * FLOAT


def test_attention_has_no_scores() -> None:
    """Twice the places take twice the memory, as in the fused kernels."""
    from runner.models.tracing import peak_bytes

    def attend(places: int) -> int:
        def call() -> object:
            query = torch.empty(1, 2, places, 8)
            return torch.nn.functional.scaled_dot_product_attention(query, query, query)

        return peak_bytes(call)

    assert attend(20_000) == 2 * attend(10_000)


def test_a_real_run_is_counted_alike() -> None:
    """The same counter on tensors with numbers, whose composed operations are seen part by part."""
    from runner.models.tracing import LiveBytes, peak_bytes

    def call() -> object:
        return torch.nn.functional.group_norm(torch.ones(2, 8, 16, 16), 4) @ torch.ones(16, 3)

    with torch.inference_mode(), LiveBytes() as live:
        call()
    assert live.peak == peak_bytes(call)


CALLS: dict[str, Callable[[Any], Any]] = {
    "a matrix product of three axes": lambda x: x @ torch.ones(64, 5),
    "norms, which give three tensors": lambda x: torch.nn.functional.group_norm(x, 4),
    "views of one tensor": lambda x: [part + 1 for part in (x * 2).chunk(3, dim=1)],
    "on the spot": lambda x: (x * 2).add_(1).clamp_(0, 1),
    "two of them": lambda x: (x + 1).max(dim=-1).values,
    "strides of its own": lambda x: (x.transpose(2, 3) + 1).contiguous(),
    "a convolution": lambda x: torch.nn.functional.conv2d(x, torch.ones(3, 8, 3, 3), stride=2, padding=1),
    "larger": lambda x: torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"),
    "in other numbers": lambda x: x.to(torch.float16).float(),
    "no tensor goes in": lambda x: torch.arange(1000) * x.dim(),
    "at places of a grid": lambda x: torch.nn.functional.grid_sample(x, torch.zeros(2, 9, 7, 2), align_corners=False),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_is_remembered_of_an_operation_is_what_it_makes(call: Callable[[Any], Any]) -> None:
    """Its shapes, strides, number formats and memory, the first time and later, as on tensors with numbers."""
    from runner.models.tracing import LiveBytes, peak_bytes

    def outlines(value: Any) -> list[Any]:
        made = value if isinstance(value, list) else [value]
        return [(each.shape, each.stride(), each.dtype) for each in made]

    def run() -> None:
        found.append(outlines(call(torch.ones(2, 8, 48, 64))))

    found: list[Any] = []
    with torch.inference_mode(), LiveBytes() as live:
        run()
    assert [peak_bytes(run) for _ in range(3)] == [live.peak] * 3
    assert found[1:] == found[:1] * 3


def test_a_size_that_a_net_refuses_is_left_out() -> None:
    """The slope of the others goes on."""
    from runner.models.tracing import Part, trace

    def call(size: int) -> object:
        if size > 100:
            raise ValueError("too large")
        return torch.empty(size)

    assert trace("part", Part("net", call, ((1, 100, 1000),)), torch.nn.Identity()) == Table((1, 100), (4, 400))


def test_a_net_that_cannot_be_traced_is_bounded_by_its_width() -> None:
    """Four tensors of its widest layer, at each of its places."""
    from runner.models.tracing import Part, trace

    def call(size: int) -> object:
        raise NotImplementedError

    net = torch.nn.Linear(10, 50)
    assert trace("part", Part("net", call, ((1, 64),), positions=1 / 4), net).at(640) == 4 * 50 * FLOAT * 640 // 4
    assert trace("part", Part("net", call, positions=3), net).at() == 4 * 50 * FLOAT * 3


@pytest.mark.parametrize(
    ("model", "net", "parameters"),
    [
        ("flux-dev", "transformer", 11_901_408_320),
        ("flux-dev", "text_encoder_2", 4_762_310_656),
        ("sd3-medium", "text_encoder_2", 694_659_840),
    ],
)
def test_well_known_models_have_their_published_number_of_parameters(model: str, net: str, parameters: int) -> None:
    """An architecture that differs from the published one would be estimated wrongly."""
    from runner.models.architectures import PUBLISHED
    from runner.models.shadows import weights_of

    found = PUBLISHED[model].components()[net]
    assert weights_of(found).total_bytes == parameters * FLOAT
    assert all(weights.is_meta for weights in found.parameters())
