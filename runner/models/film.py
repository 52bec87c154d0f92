"""FILM frame interpolation as an eager network, with the published network's tensor names and shapes.

The architecture is the one of "FILM: Frame Interpolation for Large Motion" (Reda and others, 2022): a feature pyramid
shared over scales, flows from coarse to fine, and a decoder over both warped pyramids.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from torch import Tensor, nn

SLOPE = 0.2
"""Of every LeakyReLU."""
COLOURS, FLOW = 3, 2
MOST_LEVELS = 10
Pyramid = list[Tensor]
"""One tensor (batch, channels, height, width) per level, finest first; each has half the sides of the one before."""


@dataclass(frozen=True, slots=True)
class FilmShape:
    """How large a FILM network is; the defaults are the published one's (34,436,667 parameters in 82 tensors).

    filters: channels of the finest features, doubled at each of the extractor's steps. flow_filters: channels of the
    flow predictors, finest first; the last one serves all coarser levels. levels: of the picture pyramid.
    fused_levels: how many of them the decoder reads.
    """

    filters: int = 64
    flow_filters: tuple[int, ...] = (32, 64, 128, 256)
    levels: int = 7
    fused_levels: int = 5

    @property
    def steps(self) -> int:
        """Steps of the extractor over one picture, which is also the count of flow predictors and decoder steps."""
        return len(self.flow_filters)

    @property
    def unit(self) -> int:
        """What a side has to be a multiple of, pixels, for the coarsest level to be whole."""
        return 1 << (self.levels - 1)

    def features(self, level: int) -> int:
        """Channels of the features at a level: those of every extractor step that reaches it."""
        return sum(self.filters << step for step in range(min(level + 1, self.steps)))

    def aligned(self, level: int) -> int:
        """Channels that the decoder reads at a level: picture, features and flow, for both frames."""
        return 2 * (COLOURS + self.features(level) + FLOW)


PUBLISHED = FilmShape()


@dataclass(frozen=True, slots=True)
class Motion:
    """Two frames with what moves between them: enough for every moment between the two.

    `first` and `second` are pictures and features, level by level. `to_first` reads frame 1 from the second's place,
    `to_second` the other way round: channels x, y, in pixels of the level.
    """

    first: Pyramid
    second: Pyramid
    to_first: Pyramid
    to_second: Pyramid


class Film(nn.Module):
    """Pictures between two pictures. In and out are RGB in 0…1, shape (batch, 3, height, width), sides in `unit`s."""

    def __init__(self, shape: FilmShape = PUBLISHED) -> None:
        super().__init__()
        if shape.fused_levels != shape.steps + 1 or not shape.fused_levels <= shape.levels <= MOST_LEVELS:
            raise ValueError(
                f"{shape}: fused_levels is one more than flow_filters has, levels is that to {MOST_LEVELS}"
            )
        self.shape = shape
        self.extract = _Extractor(shape)
        self.predict_flow = _FlowPredictor(shape)
        self.fuse = _Decoder(shape)

    def forward(self, first: Tensor, second: Tensor, t: float) -> Tensor:
        """The picture at `t` (0 is the first, 1 the second)."""
        return self.at(self.relate(first, second), t)

    def relate(self, first: Tensor, second: Tensor) -> Motion:
        """What moves between two pictures; most of the work, and the same for every moment."""
        pictures = [_pyramid(picture, self.shape.levels) for picture in (first, second)]
        features = [self.extract(pyramid) for pyramid in pictures]
        fused = self.shape.fused_levels
        return Motion(
            first=_joined(pictures[0][:fused], features[0][:fused]),
            second=_joined(pictures[1][:fused], features[1][:fused]),
            to_first=self.predict_flow(features[1], features[0])[:fused],
            to_second=self.predict_flow(features[0], features[1])[:fused],
        )

    def at(self, motion: Motion, t: float) -> Tensor:
        """The picture at `t`: both frames are read along the flows, each as far as the moment is away from it."""
        to_first = [flow * t for flow in motion.to_first]
        to_second = [flow * (1 - t) for flow in motion.to_second]
        first = [warp(*level) for level in zip(motion.first, to_first, strict=True)]
        second = [warp(*level) for level in zip(motion.second, to_second, strict=True)]
        flows = [torch.cat(level, dim=1).to(first[0].dtype) for level in zip(to_first, to_second, strict=True)]
        picture: Tensor = self.fuse(_joined(first, second, flows))
        return picture


class _Extractor(nn.Module):
    """Features of each level: the same steps begin at every level, and meet where their sizes are equal."""

    def __init__(self, shape: FilmShape) -> None:
        super().__init__()
        self.extract_sublevels = _Steps(shape)

    def forward(self, pictures: Pyramid) -> Pyramid:
        rows = [self.extract_sublevels(picture, len(pictures) - level) for level, picture in enumerate(pictures)]
        return [torch.cat(_diagonal(rows, level), dim=1) for level in range(len(pictures))]


class _Steps(nn.Module):
    def __init__(self, shape: FilmShape) -> None:
        super().__init__()
        widths = [COLOURS, *(shape.filters << step for step in range(shape.steps))]
        self.convs = nn.ModuleList(
            nn.Sequential(_conv(before, after, 3), _conv(after, after, 3)) for before, after in pairwise(widths)
        )

    def forward(self, picture: Tensor, most: int) -> Pyramid:
        """Features of up to `most` levels, of which `picture` is the finest."""
        found: Pyramid = []
        for step, convs in enumerate(list(self.convs)[:most]):
            found.append(convs(picture if step == 0 else F.avg_pool2d(found[-1], 2)))
        return found


class _FlowPredictor(nn.Module):
    """Flows from coarse to fine: each level adds what is left after the coarser flow was followed."""

    def __init__(self, shape: FilmShape) -> None:
        super().__init__()
        made = [_Flow(2 * shape.features(level), width) for level, width in enumerate(shape.flow_filters)]
        self._predictor = made[-1]
        self._predictors = nn.ModuleList(reversed(made[:-1]))

    def forward(self, own: Pyramid, other: Pyramid) -> Pyramid:
        """Where each place of `own` is in `other`, as an offset in pixels of 32 bits, level by level."""
        flows: Pyramid = []
        for level in reversed(range(len(own))):
            predict = self._of(level)
            if not flows:
                flows.append(predict(own[level], other[level]).float())
                continue
            guess = _finer(flows[0], own[level])
            flows.insert(0, guess + predict(own[level], warp(other[level], guess)).float())
        return flows

    def _of(self, level: int) -> nn.Module:
        fine = len(self._predictors)
        return self._predictors[fine - 1 - level] if level < fine else self._predictor


class _Flow(nn.Module):
    """One predictor of a residual flow, (batch, 2, height, width), from two features."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self._convs = nn.ModuleList(
            [
                _conv(channels, width, 3),
                _conv(width, width, 3),
                _conv(width, width, 3),
                _conv(width, width // 2, 1),
                _conv(width // 2, FLOW, 1, active=False),
            ]
        )

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        net = torch.cat([own, other], dim=1)
        for conv in self._convs:
            net = conv(net)
        return net


class _Decoder(nn.Module):
    """A picture from the aligned pyramids, coarse to fine."""

    def __init__(self, shape: FilmShape) -> None:
        super().__init__()
        self.output_conv = nn.Conv2d(shape.filters, COLOURS, 1)
        self.convs = nn.ModuleList()
        below = shape.aligned(shape.fused_levels - 1)
        for level in reversed(range(shape.steps)):
            width = shape.filters << level
            self.convs.append(
                nn.ModuleList(
                    [
                        _conv(below, width, 2, active=False),
                        _conv(shape.aligned(level) + width, width, 3),
                        _conv(width, width, 3),
                    ]
                )
            )
            below = width

    def forward(self, aligned: Pyramid) -> Tensor:
        net = aligned[-1]
        for finer, convs in zip(reversed(aligned[:-1]), self.convs, strict=True):
            enlarge, join, refine = convs
            net = enlarge(F.interpolate(net, size=finer.shape[2:], mode="nearest"))
            net = refine(join(torch.cat([finer, net], dim=1)))
        picture: Tensor = self.output_conv(net)
        return picture


def warp(picture: Tensor, flow: Tensor) -> Tensor:
    """`picture` read at each place plus `flow` (x, y in pixels), between pixels linearly, beyond the edge as at it.

    Places are computed in 32 bits: half precision is off by half a pixel at the far end of a wide picture.
    """
    height, width = flow.shape[2:]
    offset = flow.float()
    x = torch.arange(width, device=flow.device, dtype=torch.float32) + offset[:, 0]
    y = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None] + offset[:, 1]
    places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    read = F.grid_sample(picture.float(), places, mode="bilinear", padding_mode="border", align_corners=False)
    return read.to(picture.dtype)


def layout(shape: FilmShape = PUBLISHED) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's tensors, without making one."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Film(shape).state_dict().items()}


def _conv(channels: int, width: int, size: int, active: bool = True) -> nn.Sequential:
    """A convolution that keeps the size; the padding of an even kernel is on the far side, as in the paper's code."""
    parts: list[tuple[str, Any]] = [("0", nn.Conv2d(channels, width, size, padding=(size - 1) // 2))]
    if size % 2 == 0:
        parts.insert(0, ("pad", nn.ZeroPad2d((0, 1, 0, 1))))
    if active:
        parts.append(("1", nn.LeakyReLU(SLOPE)))
    return nn.Sequential(OrderedDict(parts))


def _pyramid(picture: Tensor, levels: int) -> Pyramid:
    pyramid = [picture]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    return pyramid


def _diagonal(rows: Sequence[Pyramid], level: int) -> list[Tensor]:
    """All features of one size: step s of the row that begins s levels finer."""
    return [rows[level - step][step] for step in range(level + 1) if step < len(rows[level - step])]


def _finer(flow: Tensor, like: Tensor) -> Tensor:
    """`flow` at the size of `like`, which has twice the sides: so the offsets double as well."""
    return F.interpolate(2 * flow, size=like.shape[2:], mode="bilinear", align_corners=False)


def _joined(*pyramids: Pyramid) -> Pyramid:
    return [torch.cat(level, dim=1) for level in zip(*pyramids, strict=True)]
