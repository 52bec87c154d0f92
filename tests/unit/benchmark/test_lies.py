"""What is found in outputs: every lie that is looked for, and nothing in honest ones."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from benchmark.examination import Facts
from benchmark.inputs import draw
from benchmark.lies import AGREEMENT, INPUT_RMS, REPLAY_CORRELATION, Seen, agreement, findings
from benchmark.look import Look, look_at_picture, mirrored, rms, signature, thumb
from reelnet.looks import constant
from reelnet.pipelines import MediaSpec, Size
from runner.synthetic import _bars

SPEC = MediaSpec("image", 256, 192)


def bars(seed: int) -> Image.Image:
    """What the synthetic backend draws."""
    return Image.fromarray(_bars(f"text-to-image:{seed}:a boat", SPEC)[0])


def noise(seed: int) -> Image.Image:
    """Textured noise, as a model with random weights draws it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    return Image.fromarray(coarse).resize((256, 192), Image.Resampling.BILINEAR)


def encoded(picture: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def seen(seed: int, data: bytes, node: str = "n", source: bytes | None = None, place: int | None = None) -> Seen:
    """An output as the examiner would describe it."""
    with Image.open(io.BytesIO(data)) as picture:
        facts = Facts(hashlib.sha256(data).hexdigest(), constant(picture), False, look_at_picture(data))
    given = look_at_picture(source).thumbs[0] if source else None
    return Seen(seed if place is None else place, node, seed, 0, facts, given)


def clip(seed: int, frames: list[Image.Image], source: bytes | None = None) -> Seen:
    """A clip whose kept frames are these."""
    thumbs = np.stack([thumb(frame) for frame in frames])
    still = all(np.array_equal(thumbs[0], other) for other in thumbs)
    given = look_at_picture(source).thumbs[0] if source else None
    return Seen(seed, "n", seed, 0, Facts(f"{seed}", False, still, Look(thumbs)), given)


@pytest.mark.parametrize("kind", [bars, noise])
def test_honest_outputs_are_never_flagged(kind: object) -> None:
    """Not one of 120 for 120 seeds, with each compared with all before it."""
    assert callable(kind)
    assert findings([seen(seed, encoded(kind(seed))) for seed in range(120)]) == {}


def test_inputs_of_two_seeds_look_alike_in_nothing() -> None:
    """So that a model which keeps to its input replays nothing by being honest."""
    looks = [signature(look_at_picture(draw(Size(256, 192), seed))) for seed in range(60)]
    alike = [float(a @ b) for i, a in enumerate(looks) for b in looks[:i]]
    assert max(alike) < REPLAY_CORRELATION / 1.5
    assert draw(Size(64, 48), 7) == draw(Size(64, 48), 7)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: encoded(p), id="the-same-bytes"),
        pytest.param(lambda p: encoded(p, "JPEG", quality=75), id="jpeg-75"),
        pytest.param(lambda p: encoded(p, "JPEG", quality=30), id="jpeg-30"),
        pytest.param(lambda p: encoded(p.resize((128, 96)).resize((256, 192))), id="scaled-down-and-up"),
        pytest.param(lambda p: encoded(p.point(lambda v: v * 0.7 + 30)), id="paler"),
        pytest.param(lambda p: encoded(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), id="mirrored"),
        pytest.param(
            lambda p: encoded(
                Image.fromarray(
                    (np.asarray(p) + np.random.default_rng(0).normal(0, 12, (192, 256, 3)))
                    .clip(0, 255)
                    .astype(np.uint8)
                )
            ),
            id="with-noise",
        ),
    ],
)
@pytest.mark.parametrize("kind", [bars, noise])
def test_a_replay_is_found_although_it_was_changed(kind: object, change: object) -> None:
    """The later delivery is the replay; the same job on another node is none."""
    assert callable(kind)
    assert callable(change)
    first = seen(1, encoded(kind(1)))
    again = seen(2, change(kind(1)))
    assert findings([again, first]) == {2: ("replayed",)}
    assert findings([first, seen(1, encoded(kind(1)), "other", place=5)]) == {}


def test_the_limit_of_replays_is_known() -> None:
    """A picture that is turned or cropped by a quarter passes: docs/benchmark.md says so."""
    turned, cropped = noise(1).rotate(180), noise(1).crop((32, 24, 224, 168)).resize((256, 192))
    assert findings([seen(1, encoded(noise(1))), seen(2, encoded(turned)), seen(3, encoded(cropped))]) == {}


def test_one_colour_is_found() -> None:
    """Nobody was asked for it."""
    assert findings([seen(1, encoded(Image.new("RGB", (256, 192), "white")))]) == {1: ("constant",)}


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_input_sent_back_is_found(quality: int) -> None:
    """Also when it was coded again; a model's own picture is not taken for it."""
    source = draw(Size(256, 192), 3)
    with Image.open(io.BytesIO(source)) as picture:
        back = encoded(picture.convert("RGB"), "JPEG", quality=quality)
    assert rms(look_at_picture(back).thumbs[0], look_at_picture(source).thumbs[0]) <= INPUT_RMS
    assert findings([seen(3, back, source=source), seen(4, encoded(noise(4)), source=source)]) == {3: ("input",)}


def test_a_clip_that_begins_with_its_input_is_honest() -> None:
    """A model's clip starts there and leaves it; only one that stays is the input."""
    source = draw(Size(256, 192), 3)
    with Image.open(io.BytesIO(source)) as opened:
        picture = opened.convert("RGB")
    moved = [picture, picture.rotate(3), picture.rotate(6)]
    assert findings([clip(1, moved, source)]) == {}
    assert findings([clip(1, [picture] * 3, source)]) == {1: ("input",)}
    assert findings([clip(1, [noise(1)] * 3, source)]) == {1: ("still",)}


def test_a_node_that_makes_something_else_stands_alone() -> None:
    """Two nodes that agree judge the third; two that differ judge nobody."""
    honest = [seen(seed, encoded(noise(seed)), node, place=0) for seed in range(5) for node in ("a", "b")]
    odd = [seen(seed, encoded(noise(seed + 100)), "c", place=0) for seed in range(5)]
    assert agreement([*honest, *odd]) == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert agreement([*honest[::2], *odd]) == {}


def test_signatures_measure_what_they_say() -> None:
    """A picture is like itself, and like nothing when it has no contrast."""
    look = look_at_picture(encoded(noise(1)))
    assert float(signature(look) @ signature(look)) == pytest.approx(1.0, abs=1e-4)
    assert float(signature(look) @ signature(mirrored(look))) < AGREEMENT
    flat = look_at_picture(encoded(Image.new("RGB", (64, 64), "grey")))
    assert not signature(flat).any()
