"""Cut a picture into tiles of one size that overlap, so that what is used of their results meets without a seam.

What a network makes of a pixel depends on the pixels within its reach. Near a cut edge of a tile a part of them is
missing; so a tile's result is used from `overlap` pixels inside of the edge only. With an overlap of the network's
reach every used pixel is what the whole picture would have given. Each pixel is taken from one tile, the one in which
it lies farther from a cut edge: a blend of two results would hide a difference in place of avoiding it, would blur
where they differ, and would need sums of all tiles that meet.

The edge of the picture is no cut: there a network fills up as it does with the whole picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from aigc_runtime.core.tensors import Array

__all__ = ["Span", "plan_spans", "reflected"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A tile along one axis.

    Attributes:
        start: its first pixel.
        first: the first pixel of which its result is used.
        last: the one behind the last.
    """

    start: int
    first: int
    last: int


def plan_spans(length: int, tile: int, overlap: int, multiple_of: int = 1) -> tuple[Span, ...]:
    """Cover an axis with tiles; what is used of them covers every pixel once, in order.

    >>> [(s.start, s.first, s.last) for s in plan_spans(20, 8, 1)]
    [(0, 0, 7), (6, 7, 13), (12, 13, 20)]

    Args:
        length: of the axis, a multiple of `multiple_of` and no less than a tile.
        tile: side of a tile, a multiple of `multiple_of`.
        overlap: pixels inside of a cut edge that are not used; at least one pixel must be left.
        multiple_of: what every start is a multiple of.
    """
    step = (tile - 2 * overlap) // multiple_of * multiple_of
    starts = [*range(0, length - tile, step), length - tile]
    # Two tiles meet in the middle of what both cover, which is at least 2 * overlap wide.
    meet = [0, *((before + tile + after) // 2 for before, after in pairwise(starts)), length]
    return tuple(Span(start=s, first=a, last=b) for s, a, b in zip(starts, meet[:-1], meet[1:], strict=True))


def reflected(length: int, padded: int) -> Array:
    """Indices that prolong an axis by reflection at its last pixel, as often as needed: int64 [padded].

    >>> reflected(3, 8).tolist()
    [0, 1, 2, 1, 0, 1, 2, 1]
    >>> reflected(1, 3).tolist()
    [0, 0, 0]
    """
    period = max(1, 2 * (length - 1))
    turn = np.arange(padded) % period
    return np.minimum(turn, period - turn) if length > 1 else turn
