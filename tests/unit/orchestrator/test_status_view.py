"""What an operator sees of a node, at every width, with and without colours."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from orchestrator.status import DeviceStatus, NodeStatus, SlotStatus
from orchestrator.status_view import ModelsView, StatusView, jobs_here, size, span
from tests.fakes.controlled import GIB, MODELS, SLOTS, STATUS

HOSTILE = "[red]x[/red]\x1b[31m\nsecond\u202e"


def text(shown: RenderableType, width: int, color_system: str | None = None) -> str:
    """What is printed on a terminal of this width."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=color_system, force_terminal=color_system is not None).print(shown)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 76, 80, 120, 200])
def test_it_fits(width: int) -> None:
    """No line is longer than the terminal, and what matters most is never cut."""
    got = text(StatusView(STATUS), width)
    assert max(cell_len(line) for line in got.splitlines()) <= width
    for word in ("cuda:0", "0-acme-sdxl-0", "busy 12 s", "12/30", "problem", "XID 79: fell off the bus", "4 restarts"):
        assert word in got
    assert "the runner ended (exit code 3): no memory" in got.replace("\n", " ")


@pytest.mark.parametrize("width", [60, 80])
def test_the_whole_name_of_a_slot_can_be_read(width: int) -> None:
    """`logs` wants it, and names differ at their ends."""
    long = replace(SLOTS[0], slot="stable-video-diffusion-img2vid-xt-1f00aa-0")
    cells = [
        row.split("│")[1] for row in text(StatusView(replace(STATUS, slots=(long,))), width).splitlines() if "│" in row
    ]
    assert long.slot in "".join(cell.strip() for cell in cells)


def test_what_a_wide_terminal_shows_too() -> None:
    """Memory, pace and power."""
    got = text(StatusView(STATUS), 100)
    for word in ("20.0 / 141.0 GiB", "97%", "61 °C", "512 W", "7.0 GiB", "112 jobs/h", "31 s / 45 s", "denoise"):
        assert word in got


def test_the_bar_can_be_read_without_colours() -> None:
    """It has two shapes, and never more cells than its length."""
    assert "████░░░░░░░░ 12/30" in text(StatusView(STATUS), 120)
    beyond = replace(STATUS, slots=(replace(SLOTS[0], step=99, total=30),))
    assert "████████████ 99/30" in text(StatusView(beyond), 120)
    unknown = replace(STATUS, slots=(replace(SLOTS[0], step=None, total=None),))
    assert "░" not in text(StatusView(unknown), 120)


def test_colours_only_where_there_are_some() -> None:
    """A pipe gets plain text."""
    assert "\x1b[" not in text(StatusView(STATUS), 80)
    assert "\x1b[" in text(StatusView(STATUS), 80, "standard")


@pytest.mark.parametrize("colours", [None, "standard"])
def test_strangers_words_are_words(colours: str | None) -> None:
    """Markup, escapes and line ends in names, ids and reasons have no effect."""
    slot = SlotStatus(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, job_id=HOSTILE, stage=HOSTILE, step=1, total=2)
    device = DeviceStatus(HOSTILE, HOSTILE, HOSTILE, problem=HOSTILE)
    node = NodeStatus(HOSTILE, HOSTILE, HOSTILE, HOSTILE, False, 1.0, (slot,), (device,))
    model = replace(MODELS[0], model=HOSTILE, digest=HOSTILE, device=HOSTILE, prices={HOSTILE: {"job": "1"}})
    for shown in (StatusView(node), ModelsView((model,))):
        got = text(shown, 200, colours)
        assert "[red]x[/red] [31m second" in got
        assert "\x1b[31m second" not in got
        assert "\u202e" not in got


def test_an_empty_node() -> None:
    """No models, no devices: it says so."""
    assert "no models are configured" in text(StatusView(replace(STATUS, slots=(), devices=())), 80)


def test_draining_is_seen() -> None:
    """At the top."""
    assert "DRAINING" in text(StatusView(replace(STATUS, draining=True)), 80).splitlines()[0]
    assert "DRAINING" not in text(StatusView(STATUS), 80)


def test_the_operators_word_is_seen() -> None:
    """With what takes it back; a node that only stops has no such line."""
    for drained in (True, False):
        shown = text(StatusView(replace(STATUS, draining=True, drained=drained)), 80)
        assert ("the node is drained: `orchestrator resume` has it take jobs" in shown) is drained


@pytest.mark.parametrize("width", [60, 80, 120])
def test_models(width: int) -> None:
    """Which are loaded, which come on demand, what they cost."""
    got = text(ModelsView(MODELS), width)
    assert max(cell_len(line) for line in got.splitlines()) <= width
    for word in ("acme/sdxl", "warm", "1 of 1", "2 of 8", "mpix_step", "0.0000045", "on demand", "0 of 1", "free"):
        assert word in got
    assert ("aaaaaaaa" in got) == (width >= 76)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "–"), (0, "0.0 s"), (9.4, "9.4 s"), (9.6, "10 s"), (119, "119 s"), (125, "2:05 min"), (7199, "119:59 min"),
     (7500, "2:05 h"), (86_399, "23:59 h"), (93_784, "1 d 02 h")],
)  # fmt: skip
def test_spans(seconds: float | None, said: str) -> None:
    """Short, with a unit."""
    assert span(seconds) == said


def test_sizes() -> None:
    """In GiB; a dash where nothing is known."""
    assert [size(None), size(0), size(3 * GIB // 2)] == ["–", "0.0 GiB", "1.5 GiB"]


def test_jobs_in_words() -> None:
    """Running ones are those that hold a slot."""
    assert jobs_here(STATUS) == "3 jobs here: 1 running, 2 waiting"
    assert jobs_here(replace(STATUS, jobs=1, queued=0, slots=())) == "1 job here: 0 running, 0 waiting"
