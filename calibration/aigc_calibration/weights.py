"""Constants on a grid: codes and scales, per output channel or per block, by rounding to nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from aigc_calibration.grids import Grid
from aigc_calibration.histogram import Histogram
from aigc_calibration.ranges import Method, find_amax
from aigc_runtime.core.tensors import Array

__all__ = [
    "QuantizedWeight",
    "block_scales",
    "by_row",
    "channel_scales",
    "round_to_blocks",
    "round_to_channels",
    "stored_codes",
]

WORKING_SET = 2**18
"""Numbers whose errors are computed at a time: few enough for a cache, enough that threads seldom wait."""
SHARES = np.linspace(0.6, 1.0, 41)
"""Of the largest magnitude: the ranges that are tried."""
MIN_SCALE = 4 * np.finfo(np.float32).tiny
"""Of zeros: even the narrowest range that is tried stays a normal number, for threads that flush others to zero."""


@dataclass(frozen=True, kw_only=True)
class QuantizedWeight:
    """A weight on a grid.

    Attributes:
        name: of the constant in the float graph.
        codes: of the weight's shape: int8 for integer grids, float32 holding the grid's numbers for fp8.
        scales: [channels] float32, or [blocks, channels] where `block` is given.
        axis: of the output channels in `codes`.
        block: numbers that share a scale along the summed axis of a matrix [in, out]; None for one per channel.
        grid: what the codes are on.
        zeros: [blocks, channels] int8, the code of each block that stands for zero; None: it is 0 everywhere.
    """

    name: str
    codes: Array
    scales: Array
    axis: int
    block: int | None
    grid: Grid
    zeros: Array | None = None

    def dequantize(self) -> Array:
        """Compute the numbers that the codes stand for, float32."""
        if self.block is None:
            shape = [1] * self.codes.ndim
            shape[self.axis] = -1
            return np.asarray(self.codes * self.scales.reshape(shape), dtype=np.float32)
        wide = by_row(self.scales, self.block, len(self.codes))
        if self.zeros is None:
            return np.asarray(self.codes * wide, dtype=np.float32)
        zeros = by_row(self.zeros, self.block, len(self.codes)).astype(np.float32)
        return np.asarray((self.codes - zeros) * wide, dtype=np.float32)


def by_row(of_blocks: Array, block: int, rows: int) -> Array:
    """Give each row what its block has: [blocks, channels] -> [rows, channels]."""
    wide: Array = np.repeat(of_blocks, block, axis=0)[:rows]
    return wide


def stored_codes(grid: Grid, codes: Array) -> Array:
    """Keep codes as `QuantizedWeight` does: those of integer grids in a byte each."""
    return codes.astype(np.float32 if grid.name == "fp8" else np.int8)


def channel_scales(weight: Array, axis: int, grid: Grid, *, method: Method = "mse", percentile: float = 99.99) -> Array:
    """Compute one scale per output channel, [channels] float32.

    Args:
        weight: any shape.
        axis: of the output channels.
        grid: what it is quantized to.
        method: as in `ranges.find_amax`; `mse` tries ranges down to 0.6 of the largest magnitude.
        percentile: for that method.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float32)
    least = MIN_SCALE * grid.qmax
    amax = np.maximum(np.abs(rows).max(axis=1), least)
    if method == "mse":
        found, _ = _least_error(np.ascontiguousarray(rows.T)[None], amax[None], grid, SHARES)
        return np.asarray(found[0])
    if method == "percentile":
        amax = np.maximum(np.percentile(np.abs(rows), percentile, axis=1).astype(np.float32), least)
    elif method == "kl":
        amax = np.maximum([find_amax(_histogram(row), "kl", grid) for row in rows], least).astype(np.float32)
    scales: Array = (amax / np.float32(grid.qmax)).astype(np.float32)
    return scales


def _histogram(row: Array) -> Histogram:
    made = Histogram()
    made.update(row)
    return made


def _least_error(
    groups: Array,
    amax: Array,
    grid: Grid,
    shares: Array,
    importance: Array | None = None,
    *,
    zero_points: bool = False,
) -> tuple[Array, Array]:
    """The scale and the zero point of each column of each group that round it with the least error: [groups, columns].

    As many at a time as stay in the cache.

    Args:
        groups: [groups, rows, columns].
        amax: [groups, columns], the largest magnitudes, above zero.
        grid: what is rounded to.
        shares: of them, the ranges that are tried.
        importance: [groups, rows], what a squared error counts; None: all alike.
        zero_points: try ranges from the least to the largest number, too; else all zero points are 0.
    """
    count, rows, columns = groups.shape
    width = min(columns, max(1, WORKING_SET // max(rows, 1)))
    deep = max(1, WORKING_SET // max(rows * width, 1))
    scales = np.empty((count, columns), dtype=np.float32)
    zeros = np.zeros((count, columns), dtype=np.int8)
    for first in range(0, count, deep):
        for start in range(0, columns, width):
            here = slice(first, first + deep), slice(start, start + width)
            counts = None if importance is None else importance[here[0]]
            part = groups[here[0], :, here[1]]
            scales[here], zeros[here] = _least_error_at_once(part, amax[here], grid, shares, counts, zero_points)
    return scales, zeros


def _least_error_at_once(
    groups: Array, amax: Array, grid: Grid, shares: Array, importance: Array | None, zero_points: bool
) -> tuple[Array, Array]:
    # In units of a power of two near the largest magnitude, which changes no code: squares neither vanish nor overflow.
    _, exponents = np.frexp(amax)
    groups, amax = np.ldexp(groups, -exponents[:, None]), np.ldexp(amax, -exponents)
    ones = np.ones(groups.shape[:2], dtype=np.float32)
    weights = (ones if importance is None else _relative(importance))[:, None]
    best, scales = np.full(amax.shape, np.inf, dtype=np.float32), (amax / np.float32(grid.qmax)).astype(np.float32)
    zeros = np.zeros(amax.shape, dtype=np.float32)
    around_zero = ((_scale(amax, share, grid.qmax), None) for share in shares)
    for scale, zero in chain(around_zero, _between(groups, amax, grid, shares) if zero_points else ()):
        difference = _round_trip(groups, scale, zero, grid)
        difference -= groups
        error = (weights @ np.square(difference, out=difference))[:, 0]
        better = error <= best if zero is None else error < best
        best, scales = np.where(better, error, best), np.where(better, scale, scales)
        zeros = zeros if zero is None else np.where(better, zero, zeros)
    return np.ldexp(scales, exponents), zeros.astype(np.int8)


def _scale(span: Array, share: float, steps: float) -> Array:
    scale: Array = (span * np.float32(share) / np.float32(steps)).astype(np.float32)
    return scale


def _round_trip(groups: Array, scale: Array, zero: Array | None, grid: Grid) -> Array:
    """Quantize and dequantize [groups, rows, columns] with a scale and a zero point, or none, for each column."""
    if zero is None:
        return grid.round_trip(groups, scale[:, None])
    result = grid.round_codes(groups / scale[:, None] + zero[:, None])
    result -= zero[:, None]
    result *= scale[:, None]
    return result


def _between(groups: Array, amax: Array, grid: Grid, shares: Array) -> Iterator[tuple[Array, Array]]:
    """Yield scales and zero points, [groups, columns], of ranges whose middle is that of the numbers and zero."""
    low, high = np.minimum(groups.min(axis=1), 0), np.maximum(groups.max(axis=1), 0)
    middle, span = (low + high) / 2, np.maximum(high - low, amax)
    least, most = -(1 << (grid.bits - 1)), (1 << (grid.bits - 1)) - 1
    for share in shares:
        scale = _scale(span, share, most - least)
        yield scale, np.clip(np.rint(least - (middle - span * np.float32(share) / 2) / scale), least, most)


def _relative(importance: Array) -> Array:
    """Shares of the largest, float32: only their ratios count, and none is too large for that type."""
    largest = importance.max(initial=0.0)
    return np.asarray(importance / largest if largest > 0 else importance, dtype=np.float32)


def round_to_channels(
    name: str,
    weight: Array,
    axis: int,
    grid: Grid,
    *,
    scales: Array | None = None,
    method: Method = "mse",
    percentile: float = 99.99,
) -> QuantizedWeight:
    """Round a weight to the nearest codes, one scale per output channel: those given, or by `channel_scales`."""
    if scales is None:
        scales = channel_scales(weight, axis, grid, method=method, percentile=percentile)
    shape = [1] * weight.ndim
    shape[axis] = -1
    codes = stored_codes(grid, grid.round_codes(weight.astype(np.float32) / scales.reshape(shape)))
    return QuantizedWeight(name=name, codes=codes, scales=scales, axis=axis, block=None, grid=grid)


def block_scales(
    matrix: Array,
    grid: Grid,
    block: int,
    *,
    search: bool = True,
    importance: Array | None = None,
    zero_points: bool = False,
) -> tuple[Array, Array | None]:
    """Compute one scale per `block` rows and column of a matrix [in, out].

    Args:
        matrix: the weight.
        grid: what it is quantized to.
        block: rows that share a scale.
        search: try narrower ranges, as `mse` does in `channel_scales`.
        importance: [in], what a squared error of a row counts; None: all alike.
        zero_points: find a zero point for each block, too, in a grid of integers.

    Returns:
        Scales [blocks, out] float32, and zero points [blocks, out] int8 where they were asked for.
    """
    rows, columns = matrix.shape
    whole = rows // block * block
    found = [
        _scales_of_blocks(
            matrix[part].reshape(-1, size, columns),
            grid,
            SHARES if search else np.ones(1),
            None if importance is None else importance[part].reshape(-1, size),
            zero_points,
        )
        for part, size in ((slice(0, whole), block), (slice(whole, rows), rows - whole))
        if size and part.start < part.stop
    ]
    scales, zeros = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return scales, zeros if zero_points else None


def _scales_of_blocks(
    blocks: Array, grid: Grid, shares: Array, importance: Array | None, zero_points: bool
) -> tuple[Array, Array]:
    """[blocks, rows, columns] -> [blocks, columns] each."""
    blocks = blocks.astype(np.float32, copy=False)
    amax = np.maximum(np.maximum(blocks.max(axis=1), -blocks.min(axis=1)), np.float32(MIN_SCALE * grid.qmax))
    return _least_error(blocks, amax, grid, shares, importance, zero_points=zero_points)


def round_to_blocks(
    name: str, matrix: Array, grid: Grid, block: int, *, search: bool = True, zero_points: bool = False
) -> QuantizedWeight:
    """Round a matrix [in, out] to the nearest codes, one scale per block of rows and column; see `block_scales`."""
    scales, zeros = block_scales(matrix, grid, block, search=search, zero_points=zero_points)
    scaled = matrix.astype(np.float32) / by_row(scales, block, len(matrix))
    if zeros is not None:
        scaled += by_row(zeros, block, len(matrix))
    codes = stored_codes(grid, grid.round_codes(scaled))
    return QuantizedWeight(name=name, codes=codes, scales=scales, axis=1, block=block, grid=grid, zeros=zeros)
