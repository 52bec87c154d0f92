"""Which devices a node works with, by the names in its configuration; and how much memory it may use."""

from __future__ import annotations

import pytest

from orchestrator.devices import DEVICE_NAME, Device, inventory, needs_gpus
from orchestrator.gpus import Gpu, with_cards
from reelnet.errors import ConfigError

GIB = 2**30
FIRST = Gpu("GPU-aaaa1111-0000", "NVIDIA H200", 0, 141 * GIB)
SECOND = Gpu("GPU-aaaa2222-0000", "NVIDIA H200", 1, 141 * GIB)
CARD = Gpu("GPU-bbbb1111-0000", "NVIDIA A100", 2, 40 * GIB, partitioned=True)
SLICES = tuple(
    Gpu(f"MIG-{i}{i}{i}{i}-0000", "NVIDIA A100 MIG 3g.20gb", 2, 20 * GIB, CARD.uuid, i + 1) for i in range(2)
)
HOST = (FIRST, SECOND, CARD, *SLICES)


def names(*configured: str, gpus: tuple[Gpu, ...] = HOST) -> list[str]:
    """The names of the devices."""
    return [device.name for device in inventory(configured, gpus)]


def complaint(*configured: str, gpus: tuple[Gpu, ...] = HOST) -> str:
    """What is said against these names."""
    with pytest.raises(ConfigError) as caught:
        inventory(configured, gpus)
    return str(caught.value)


def test_auto_is_every_gpu() -> None:
    """A card in MIG mode computes nothing itself: its slices stand in its place."""
    assert names("auto") == ["cuda:0", "cuda:1", SLICES[0].uuid, SLICES[1].uuid]
    assert inventory(("auto",), (FIRST,)) == (Device("cuda:0", FIRST.uuid, 141 * GIB, "NVIDIA H200"),)
    assert inventory(("auto",), HOST)[2].memory_bytes == 20 * GIB, "the slice's memory, not the card's"


def test_auto_without_a_gpu_is_one_cpu() -> None:
    """With all of the host's memory."""
    assert inventory(("auto",), (), 8 * GIB) == (Device("cpu/0", None, 8 * GIB, "CPU"),)
    assert inventory(("auto",), ())[0].memory_bytes is None


def test_auto_never_takes_a_cpu_where_cards_only_lack_slices() -> None:
    """A node that silently computes on a CPU beside an unused card would be a hundred times too slow."""
    assert "mig -cgi" in complaint("auto", gpus=(CARD,))


def test_devices_keep_the_operators_order() -> None:
    """By index, by UUID, by the beginning of a UUID; a GPU has one name, however it was written."""
    assert names("cuda:1", "cuda:0") == ["cuda:1", "cuda:0"]
    assert names(SECOND.uuid, SLICES[1].uuid) == ["cuda:1", SLICES[1].uuid]
    assert names("GPU-aaaa2", "MIG-0") == ["cuda:1", SLICES[0].uuid]
    assert [d.uuid for d in inventory(("cuda:1",), HOST)] == [SECOND.uuid]


def test_each_cpu_is_a_place_with_its_share_of_the_memory() -> None:
    """Two places that both count on the whole host would load twice what fits."""
    devices = inventory(("cuda:0", "cpu", "cpu"), HOST, 8 * GIB)
    assert [(d.name, d.memory_bytes) for d in devices] == [
        ("cuda:0", 141 * GIB), ("cpu/1", 4 * GIB), ("cpu/2", 4 * GIB)
    ]  # fmt: skip
    assert not needs_gpus(("cpu", "cpu"))
    assert needs_gpus(("auto",))
    assert needs_gpus(("cpu", "cuda:0"))


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        (("cuda:7",), "no cuda:7 on this host; there is cuda:0 (GPU-aaaa1111-0000, NVIDIA H200), cuda:1"),
        (("GPU-cccc",), "no GPU-cccc on this host"),
        (("GPU-aaaa",), "GPU-aaaa is the beginning of cuda:0 (GPU-aaaa1111-0000, NVIDIA H200), cuda:1"),
        (("cuda:0", "GPU-aaaa1"), "cuda:0 stands there 2 times"),
        (("cuda:2",), f"cuda:2 is in MIG mode; name its slices: {SLICES[0].uuid}, {SLICES[1].uuid}"),
        (("auto", "cpu"), "auto stands alone"),
    ],
)
def test_what_cannot_be_had_is_explained(configured: tuple[str, ...], said: str) -> None:
    """The operator reads what is wrong and which devices exist."""
    assert said in complaint(*configured)
    assert "no GPU, and cpu" in complaint("cuda:0", gpus=())
    assert "it has none yet" in complaint("cuda:2", gpus=(CARD,))


def test_only_these_are_names() -> None:
    """What the configuration accepts before anybody has looked at the host."""
    for name in ("auto", "cpu", "cuda:0", "cuda:127", FIRST.uuid, SLICES[0].uuid, "MIG-GPU-aaaa/1/0"):
        assert DEVICE_NAME.fullmatch(name), name
    for name in ("gpu0", "cuda", "cuda:", "cuda:0 ", "GPU-", "GPU-a b", "MIG", ""):
        assert not DEVICE_NAME.fullmatch(name), name


def test_a_slices_card_is_watched_with_it() -> None:
    """Once, however many of its slices are used."""
    assert with_cards((FIRST.uuid,), HOST) == (FIRST.uuid,)
    uuids = tuple(gpu.uuid for gpu in SLICES)
    assert with_cards(uuids, HOST) == (uuids[0], CARD.uuid, uuids[1])
