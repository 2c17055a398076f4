"""GPTQ: round a weight column by column and let what is not yet rounded make up for the error.

Frantar et al. 2023, "GPTQ: Accurate post-training quantization for generative pre-trained transformers", algorithm 1,
with the Cholesky factor of the inverse Hessian and lazy updates in batches of columns. Matrices here are [in, out], so
the paper's columns are rows. What belongs to different outputs does not meet: a part of them is worked on at a time.
Codes of 4 bits are moved to lower the error further (`code_descent`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aigc_calibration.code_descent import descend_codes
from aigc_calibration.grids import Grid
from aigc_calibration.parallel import products_in_one_thread
from aigc_calibration.weights import QuantizedWeight, block_scales, by_row, channel_scales, stored_codes
from aigc_runtime.core.tensors import Array

__all__ = ["gptq"]

FEW_BITS = 4
"""Of grids whose codes are moved again."""
DAMPING = 0.01
"""Share of the mean diagonal that is added to the diagonal (the paper's 1 %)."""
BATCH = 32
"""Rows whose errors reach the rows behind them in one product: few, since their own are passed on row by row."""
SWEEPS = 2
"""Times that all codes of 4 bits are gone through again (docs/adr/0051-asymmetric-codes.md)."""
WIDTH, PART = 4096, 2**24
"""Outputs in a part, and numbers, at most: its copies in float64 are small beside the matrix. Steps are too short to
share them out: two threads took as long as one, and half as much again with parts of 512."""


def gptq(
    matrices: Sequence[tuple[str, Array]],
    hessian: Array,
    grid: Grid,
    *,
    block: int | None,
    scales: Array | None = None,
    zero_points: bool = False,
    sweeps: int | None = None,
) -> list[QuantizedWeight]:
    """Quantize matrices [in, out] that are multiplied with the same value, so that the error of the products is small.

    Args:
        matrices: name and values of each.
        hessian: [in, in], second moments of the value.
        grid: what is rounded to.
        block: rows that share a scale; None: one scale per output channel.
        scales: [outputs of all matrices] of the channels, where they are given; None finds scales as it goes.
        zero_points: find a zero point for each block, too; of integers in blocks.
        sweeps: of `code_descent`; None: `SWEEPS` in 4 bits, none in more.
    """
    damped, importance = _damped(hessian), np.diag(hessian)
    factor = _inverse_factor(damped)
    sweeps = (SWEEPS if grid.bits == FEW_BITS else 0) if sweeps is None else sweeps
    ends = np.cumsum([matrix.shape[1] for _, matrix in matrices])
    wide = matrices[0][1] if len(matrices) == 1 else np.concatenate([matrix for _, matrix in matrices], axis=1)
    count = -(-wide.shape[1] // max(1, min(WIDTH, PART // len(wide))))
    parts = np.array_split(wide, count, axis=1)
    given = [None] * count if scales is None else np.array_split(scales, count)
    found = []
    with products_in_one_thread():  # which are short, too
        for part, own in zip(parts, given, strict=True):
            rounded = _round(part, factor, importance, grid, block, own, zero_points)
            found.append(_descended(part, damped, rounded, grid, block, sweeps) if sweeps else rounded)
    codes, scales, zeros = (np.concatenate(made, axis=1) for made in zip(*found, strict=True))
    return [
        QuantizedWeight(
            name=name,
            codes=np.ascontiguousarray(codes[:, end - matrix.shape[1] : end]),
            scales=np.ascontiguousarray(scales[slice(None) if block is not None else 0, end - matrix.shape[1] : end]),
            axis=1,
            block=block,
            grid=grid,
            zeros=np.ascontiguousarray(zeros[:, end - matrix.shape[1] : end]) if zero_points else None,
        )
        for (name, matrix), end in zip(matrices, ends, strict=True)
    ]


_Rounded = tuple[Array, Array, Array]
"""Codes as they are stored, [in, out], and scales and zero points of their blocks, [blocks, out] each."""


def _round(
    matrix: Array,
    factor: Array,
    importance: Array,
    grid: Grid,
    block: int | None,
    given: Array | None,
    zero_points: bool,
) -> _Rounded:
    w = matrix.astype(np.float64)
    rows, columns = w.shape
    size = block or rows
    codes = np.empty((rows, columns), dtype=stored_codes(grid, np.empty(0)).dtype)
    scales = np.empty((-(-rows // size), columns), dtype=np.float32)
    zeros = np.zeros(scales.shape, dtype=np.int8)
    for first in range(0, rows, BATCH):
        last = min(first + BATCH, rows)
        errors = np.empty((last - first, columns))
        for i in range(first, last):
            at = i // size
            if i % size == 0:
                # The scale of a block fits the weights as the rows before it have left them; an error counts as much
                # as its row is used.
                part = w[i : i + size].astype(np.float32)
                if given is not None:
                    scales[at] = given
                elif block is None:
                    scales[at] = channel_scales(part, 1, grid)
                else:
                    made = block_scales(
                        part, grid, size, importance=importance[i : i + size], zero_points=zero_points
                    )  # fmt: skip
                    scales[at], zeros[at] = made[0][0], 0 if made[1] is None else made[1][0]
            scale, zero = scales[at].astype(np.float64), zeros[at].astype(np.float64)
            code = grid.round_codes(w[i] / scale + zero)
            codes[i] = code
            errors[i - first] = (w[i] - (code - zero) * scale) / factor[i, i]
            w[i + 1 : last] -= factor[i, i + 1 : last, None] * errors[i - first]
        w[last:] -= factor[first:last, last:].T @ errors
    return codes, scales, zeros


def _descended(matrix: Array, damped: Array, rounded: _Rounded, grid: Grid, block: int | None, sweeps: int) -> _Rounded:
    codes, scales, zeros = rounded
    rows = len(matrix)
    steps, points = (by_row(of_blocks.astype(np.float64), block or rows, rows) for of_blocks in (scales, zeros))
    moved = descend_codes(matrix.astype(np.float64), damped, codes, steps, points, grid, sweeps=sweeps)
    return moved, scales, zeros


def _damped(hessian: Array) -> Array:
    """The second moments with more on their diagonal; a channel that is always zero counts as one of its own."""
    h = hessian.astype(np.float64)
    used = np.diag(h) > 0
    dead = np.flatnonzero(~used)
    h[dead, dead] = np.diag(h)[used].mean() if used.any() else 1.0
    h[np.diag_indices_from(h)] += DAMPING * np.mean(np.diag(h))
    return h


def _inverse_factor(damped: Array) -> Array:
    """U with U^T U = H^-1, upper triangular.

    With the rows and columns of H in reverse order, L L^T = H gives U as the inverse of L, in reverse order again.
    """
    from scipy.linalg import cholesky, solve_triangular

    lower = cholesky(damped[::-1, ::-1], lower=True, check_finite=False)
    inverse = solve_triangular(lower, np.eye(len(damped)), lower=True, check_finite=False, overwrite_b=True)
    return np.ascontiguousarray(inverse[::-1, ::-1])
