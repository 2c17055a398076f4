"""Constants on a grid: codes and scales, per output channel or per block, by rounding to nearest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aigc_calibration.grids import Grid
from aigc_calibration.histogram import Histogram
from aigc_calibration.ranges import Method, find_amax
from aigc_runtime.core.tensors import Array

__all__ = ["QuantizedWeight", "block_scales", "channel_scales", "round_to_blocks", "round_to_channels", "stored_codes"]

WORKING_SET = 2**18
"""Numbers whose errors are computed at a time: few enough for a cache, enough that threads seldom wait."""
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
    """

    name: str
    codes: Array
    scales: Array
    axis: int
    block: int | None
    grid: Grid

    def dequantize(self) -> Array:
        """Compute the numbers that the codes stand for, float32."""
        if self.block is None:
            shape = [1] * self.codes.ndim
            shape[self.axis] = -1
            return np.asarray(self.codes * self.scales.reshape(shape), dtype=np.float32)
        wide = np.repeat(self.scales, self.block, axis=0)[: len(self.codes)]
        return np.asarray(self.codes * wide, dtype=np.float32)


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
        return _least_error(rows, amax, grid, np.linspace(0.6, 1.0, 41))
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


def _least_error(rows: Array, amax: Array, grid: Grid, shares: Array, weights: Array | float = 1.0) -> Array:
    """The scale of each row that rounds it with the least error; a few rows at a time, which stay in the cache."""
    count = max(1, WORKING_SET // max(rows.shape[1], 1))
    found = np.empty(len(rows), dtype=np.float32)
    for first in range(0, len(rows), count):
        part = slice(first, first + count)
        weight = weights if isinstance(weights, float) else weights[part]
        found[part] = _least_error_at_once(rows[part], amax[part], grid, shares, weight)
    return found


def _least_error_at_once(rows: Array, amax: Array, grid: Grid, shares: Array, weights: Array | float) -> Array:
    # In units of a power of two near the largest magnitude, which changes no code: squares neither vanish nor overflow.
    _, exponents = np.frexp(amax)
    rows, amax = np.ldexp(rows, -exponents[:, None]), np.ldexp(amax, -exponents)
    best, scales = np.full(len(rows), np.inf), (amax / np.float32(grid.qmax)).astype(np.float32)
    for share in shares:
        scale = (amax * np.float32(share) / np.float32(grid.qmax)).astype(np.float32)
        error = (weights * (grid.round_trip(rows, scale[:, None]) - rows) ** 2).sum(axis=1)
        better = error <= best
        best, scales = np.where(better, error, best), np.where(better, scale, scales)
    result: Array = np.ldexp(scales, exponents)
    return result


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
    matrix: Array, grid: Grid, block: int, *, search: bool = True, importance: Array | None = None
) -> Array:
    """Compute one scale per `block` rows and column of a matrix [in, out]: [blocks, out] float32.

    Args:
        matrix: the weight.
        grid: what it is quantized to.
        block: rows that share a scale.
        search: try narrower ranges, as `mse` does in `channel_scales`.
        importance: [in], what a squared error of a row counts; None: all alike.
    """
    rows, columns = matrix.shape
    blocks = -(-rows // block)
    padded = np.zeros((blocks * block, columns), dtype=np.float32)
    padded[:rows] = matrix
    groups = padded.reshape(blocks, block, columns).transpose(0, 2, 1).reshape(-1, block)
    amax = np.maximum(np.abs(groups).max(axis=1), MIN_SCALE * grid.qmax)
    shares = np.linspace(0.6, 1.0, 41) if search else np.ones(1)
    weights: Array | float = 1.0
    if importance is not None:
        wide = np.zeros(blocks * block)
        wide[:rows] = importance
        weights = np.repeat(wide.reshape(blocks, block), columns, axis=0)
    return _least_error(groups, amax, grid, shares, weights).reshape(blocks, columns)


def round_to_blocks(name: str, matrix: Array, grid: Grid, block: int, *, search: bool = True) -> QuantizedWeight:
    """Round a matrix [in, out] to the nearest codes, one scale per block of rows and column."""
    scales = block_scales(matrix, grid, block, search=search)
    wide = np.repeat(scales, block, axis=0)[: len(matrix)]
    codes = stored_codes(grid, grid.round_codes(matrix.astype(np.float32) / wide))
    return QuantizedWeight(name=name, codes=codes, scales=scales, axis=1, block=block, grid=grid)
