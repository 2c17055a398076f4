"""GPTQ: round a weight column by column and let what is not yet rounded make up for the error.

Frantar et al. 2023, "GPTQ: Accurate post-training quantization for generative pre-trained transformers", algorithm 1,
with the Cholesky factor of the inverse Hessian and lazy updates in batches of columns. Matrices here are [in, out], so
the paper's columns are rows. What belongs to different outputs does not meet: a part of them is worked on at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aigc_calibration.grids import Grid
from aigc_calibration.parallel import products_in_one_thread
from aigc_calibration.weights import QuantizedWeight, block_scales, channel_scales, stored_codes
from aigc_runtime.core.tensors import Array

__all__ = ["gptq"]

DAMPING = 0.01
"""Share of the mean diagonal that is added to the diagonal (the paper's 1 %)."""
BATCH = 32
"""Rows whose errors reach the rows behind them in one product: few, since their own are passed on row by row."""
WIDTH = 4096
"""Outputs in a part, at most: its copies in float64 are small beside the matrix. Steps are too short to share them out:
two threads took as long as one, and half as much again with parts of 512."""


def gptq(
    matrices: Sequence[tuple[str, Array]],
    hessian: Array,
    grid: Grid,
    *,
    block: int | None,
    scales: Array | None = None,
) -> list[QuantizedWeight]:
    """Quantize matrices [in, out] that are multiplied with the same value, so that the error of the products is small.

    Args:
        matrices: name and values of each.
        hessian: [in, in], second moments of the value.
        grid: what is rounded to.
        block: rows that share a scale; None: one scale per output channel.
        scales: [outputs of all matrices] of the channels, where they are given; None finds scales as it goes.
    """
    factor, importance = _inverse_factor(hessian), np.diag(hessian)
    ends = np.cumsum([matrix.shape[1] for _, matrix in matrices])
    wide = matrices[0][1] if len(matrices) == 1 else np.concatenate([matrix for _, matrix in matrices], axis=1)
    count = -(-wide.shape[1] // WIDTH)
    parts = np.array_split(wide, count, axis=1)
    given = [None] * count if scales is None else np.array_split(scales, count)
    with products_in_one_thread():  # which are short, too
        rounded = [_round(part, factor, importance, grid, block, own) for part, own in zip(parts, given, strict=True)]
    codes, scales = (np.concatenate(found, axis=1) for found in zip(*rounded, strict=True))
    return [
        QuantizedWeight(
            name=name,
            codes=np.ascontiguousarray(codes[:, end - matrix.shape[1] : end]),
            scales=np.ascontiguousarray(scales[slice(None) if block is not None else 0, end - matrix.shape[1] : end]),
            axis=1,
            block=block,
            grid=grid,
        )
        for (name, matrix), end in zip(matrices, ends, strict=True)
    ]


def _round(
    matrix: Array, factor: Array, importance: Array, grid: Grid, block: int | None, given: Array | None
) -> tuple[Array, Array]:
    """Codes as they are stored, [in, out], and the scales of their blocks, [blocks, out]."""
    w = matrix.astype(np.float64)
    rows, columns = w.shape
    size = block or rows
    codes = np.empty((rows, columns), dtype=stored_codes(grid, np.empty(0)).dtype)
    scales = np.empty((-(-rows // size), columns), dtype=np.float32)
    for first in range(0, rows, BATCH):
        last = min(first + BATCH, rows)
        errors = np.empty((last - first, columns))
        for i in range(first, last):
            if i % size == 0:
                # The scale of a block fits the weights as the rows before it have left them; an error counts as much
                # as its row is used.
                part = w[i : i + size].astype(np.float32)
                if given is not None:
                    scales[i // size] = given
                elif block is None:
                    scales[i // size] = channel_scales(part, 1, grid)
                else:
                    scales[i // size] = block_scales(part, grid, size, importance=importance[i : i + size])[0]
            scale = scales[i // size].astype(np.float64)
            code = grid.round_codes(w[i] / scale)
            codes[i] = code
            errors[i - first] = (w[i] - code * scale) / factor[i, i]
            w[i + 1 : last] -= factor[i, i + 1 : last, None] * errors[i - first]
        w[last:] -= factor[first:last, last:].T @ errors
    return codes, scales


def _inverse_factor(hessian: Array) -> Array:
    """U with U^T U = H^-1, upper triangular; a channel that is always zero counts as one of its own, of mean size.

    With the rows and columns of H in reverse order, L L^T = H gives U as the inverse of L, in reverse order again.
    """
    from scipy.linalg import cholesky, solve_triangular

    h = hessian.astype(np.float64)
    used = np.diag(h) > 0
    dead = np.flatnonzero(~used)
    h[dead, dead] = np.diag(h)[used].mean() if used.any() else 1.0
    h[np.diag_indices_from(h)] += DAMPING * np.mean(np.diag(h))
    lower = cholesky(h[::-1, ::-1], lower=True, check_finite=False)
    inverse = solve_triangular(lower, np.eye(len(h)), lower=True, check_finite=False, overwrite_b=True)
    return np.ascontiguousarray(inverse[::-1, ::-1])
