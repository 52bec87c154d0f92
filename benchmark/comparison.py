"""Which node is faster: ratios of throughput with randomisation intervals, and ranks that noise cannot make.

If two nodes are equally fast, which of them took which time in a block is chance alone, as the block's order was drawn:
exchanging the two gives every outcome that could have been (Fisher 1935). The share of outcomes as extreme as the one
seen is exact for any number of blocks and any distribution, drift included. The interval of the ratio is every ratio
that this test does not reject, so that "not told apart" and "the interval contains 1" are one thing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.intervals import CONFIDENCE, Floats

EXACT_UP_TO = 12
"""Blocks of which every exchange is tried; of more, RELABELLINGS by chance."""
RELABELLINGS = 4000
MAX_VALUES = 200
"""More values of a node are averaged in consecutive batches."""
WIDEST = math.log(1000.0)
"""Ratios beyond 1000 or under 1/1000 are not looked for."""
BISECTIONS = 30
EQUAL_WITHIN = 0.10
"""Two nodes whose ratio's interval lies within this much of 1 are as good as equal."""

Values = Callable[[str, str], tuple[Floats, Floats]]
Labels = Callable[[int, int, np.random.Generator], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Pair:
    """`left`'s throughput over `right`'s: the ratio with its interval; an end that the blocks cannot give is None.

    `pairs` is how many comparisons share the 5 % of error (Bonferroni).
    """

    left: str
    right: str
    ratio: float
    low: float | None
    high: float | None
    blocks: int
    pairs: int = 1

    def turned(self) -> Pair:
        """The same, with the right one's throughput over the left one's."""
        low, high = (None if end is None else 1 / end for end in (self.high, self.low))
        return Pair(self.right, self.left, 1 / self.ratio, low, high, self.blocks, self.pairs)

    @property
    def verdict(self) -> str:
        """`faster` or `slower` (of `left`), `equal` (within 10 %), or `unclear`: noise hides which."""
        if self.low is not None and self.low > 1:
            return "faster"
        if self.high is not None and self.high < 1:
            return "slower"
        close = self.low is not None and self.high is not None
        return "equal" if close and max(self.high or 0, 1 / (self.low or 1)) <= 1 + EQUAL_WITHIN else "unclear"


def compare_paired(seconds: Mapping[str, Sequence[float | None]], seed: int) -> tuple[Pair, ...]:
    """Every two nodes. `seconds` are by block, the same job for all in a block; None where a node failed it.

    A block counts for a pair when both did it.
    """

    def both(left: str, right: str) -> tuple[Floats, Floats]:
        rows = [(a, b) for a, b in zip(seconds[left], seconds[right], strict=True) if a is not None and b is not None]
        table = _batched(np.asarray(rows, dtype=np.float64).reshape(-1, 2))
        return table[:, 0], table[:, 1]

    return _compare(list(seconds), both, _exchanges, seed)


def compare_unpaired(seconds: Mapping[str, Sequence[float]], seed: int) -> tuple[Pair, ...]:
    """Every two nodes, of jobs of equal work that were never the same job: all relabellings count, not exchanges."""

    def both(left: str, right: str) -> tuple[Floats, Floats]:
        a, b = (_batched(np.asarray(seconds[name], dtype=np.float64)[:, None])[:, 0] for name in (left, right))
        return a, b

    return _compare(list(seconds), both, _relabellings, seed)


def ranks(names: Sequence[str], pairs: Sequence[Pair]) -> dict[str, int]:
    """1 + how many nodes are shown to be faster. Nodes that cannot be told apart from the first are first too."""
    found = dict.fromkeys(names, 1)
    for pair in pairs:
        if pair.verdict == "faster":
            found[pair.right] += 1
        elif pair.verdict == "slower":
            found[pair.left] += 1
    return found


def blocks_needed(nodes: int) -> int:
    """The fewest blocks with which any difference between so many nodes can be shown: 2 / 2**n <= 5 % / pairs."""
    pairs = max(1, nodes * (nodes - 1) // 2)
    return math.ceil(math.log2(2 * pairs / (1 - CONFIDENCE)))


def drift(seconds: Sequence[float], seed: int) -> Pair | None:
    """The first half's speed over the second half's; None for fewer than eight values."""
    half = len(seconds) // 2
    if half < 4:
        return None
    return compare_unpaired({"first half": seconds[:half], "second half": seconds[half:]}, seed)[0]


def _compare(names: list[str], both: Values, choose: Labels, seed: int) -> tuple[Pair, ...]:
    couples = list(itertools.combinations(names, 2))
    found = []
    for number, (left, right) in enumerate(couples):
        a, b = both(left, right)
        if len(a) == 0 or len(b) == 0:
            continue
        swaps = choose(len(a), len(b), np.random.default_rng([seed, number]))
        found.append(_pair(left, right, a, b, swaps, len(couples)))
    return tuple(found)


def _batched(table: Floats) -> Floats:
    """Rows, averaged in consecutive batches so that at most MAX_VALUES are left."""
    if len(table) <= MAX_VALUES:
        return table
    return np.array([rows.mean(axis=0) for rows in np.array_split(table, MAX_VALUES)])


def _pair(left: str, right: str, a: Floats, b: Floats, swaps: NDArray[np.bool_], pairs: int) -> Pair:
    estimate = math.log(b.mean() / a.mean())
    level = (1 - CONFIDENCE) / pairs
    ends = [_end(a, b, swaps, estimate, sign, level) for sign in (-1, 1)]
    low, high = (None if end is None else math.exp(end) for end in ends)
    return Pair(left, right, math.exp(estimate), low, high, min(len(a), len(b)), pairs)


def _end(a: Floats, b: Floats, swaps: NDArray[np.bool_], estimate: float, sign: int, level: float) -> float | None:
    """The logarithm of the ratio, farthest from the estimate on one side, that is not rejected; found by halving."""
    if _share(a, b, swaps, estimate + sign * WIDEST) > level:
        return None
    inside, outside = 0.0, WIDEST
    for _ in range(BISECTIONS):
        middle = (inside + outside) / 2
        if _share(a, b, swaps, estimate + sign * middle) > level:
            inside = middle
        else:
            outside = middle
    return estimate + sign * inside


def _share(a: Floats, b: Floats, swaps: NDArray[np.bool_], shift: float) -> float:
    """The p value of "the ratio is exp(shift)": the share of relabellings at least as far from it as what was seen."""
    values = np.concatenate([a, b * math.exp(-shift)])
    left = swaps @ values / len(a)
    right = (values.sum() - left * len(a)) / len(b)
    far = np.abs(np.log(right / left))
    return float((far >= far[0] - 1e-12).mean())


def _exchanges(n: int, _: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of the 2n values are the left node's, by row: as seen first, then with some blocks exchanged."""
    if n <= EXACT_UP_TO:
        swapped = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 > 0
    else:
        swapped = rng.random((RELABELLINGS, n)) < 0.5
        swapped[0] = False
    return np.concatenate([~swapped, swapped], axis=1)


def _relabellings(n: int, m: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which of the n + m values are the left node's, by row: as seen first, then any n of them."""
    order = rng.permuted(np.tile(np.arange(n + m), (RELABELLINGS, 1)), axis=1)
    order[0] = np.arange(n + m)
    return order < n
