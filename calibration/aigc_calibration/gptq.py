"""GPTQ: round a weight column by column and let what is not yet rounded make up for the error.

Frantar et al. 2023, "GPTQ: Accurate post-training quantization for generative pre-trained transformers", algorithm 1,
with the Cholesky factor of the inverse Hessian and lazy updates in batches of columns. Matrices here are [in, out], so
the paper's columns are rows.
"""

from __future__ import annotations

import numpy as np

from aigc_calibration.grids import Grid
from aigc_calibration.weights import QuantizedWeight, block_scales, channel_scales, stored_codes
from aigc_runtime.core.tensors import Array

__all__ = ["gptq"]

DAMPING = 0.01
"""Share of the mean diagonal that is added to the diagonal (the paper's 1 %)."""
BATCH = 128


def gptq(name: str, matrix: Array, hessian: Array, grid: Grid, *, block: int | None) -> QuantizedWeight:
    """Quantize a matrix [in, out] so that the error of the product is small.

    Args:
        name: of the weight.
        matrix: its values.
        hessian: [in, in], second moments of what it is multiplied with.
        grid: an integer grid.
        block: rows that share a scale; None: one scale per output channel.
    """
    w = matrix.astype(np.float64).copy()
    rows = len(w)
    upper = _inverse_factor(hessian)
    importance = np.diag(hessian)
    codes = np.zeros_like(w)
    size = block or rows
    scales = np.zeros((-(-rows // size), w.shape[1]), dtype=np.float32)
    for first in range(0, rows, BATCH):
        last = min(first + BATCH, rows)
        errors = np.zeros((last - first, w.shape[1]))
        for i in range(first, last):
            if i % size == 0:
                # The scale of a block fits the weights as the rows before it have left them; an error counts as much
                # as its row is used.
                part = w[i : i + size].astype(np.float32)
                scales[i // size] = (
                    channel_scales(part, 1, grid)
                    if block is None
                    else block_scales(part, grid, size, importance=importance[i : i + size])[0]
                )
            scale = scales[i // size].astype(np.float64)
            codes[i] = grid.round_codes(w[i] / scale)
            errors[i - first] = (w[i] - codes[i] * scale) / upper[i, i]
            w[i:last] -= np.outer(upper[i, i:last], errors[i - first])
        w[last:] -= upper[first:last, last:].T @ errors
    return QuantizedWeight(
        name=name,
        codes=stored_codes(grid, codes),
        scales=scales if block is not None else scales[0],
        axis=1,
        block=block,
        grid=grid,
    )


def _inverse_factor(hessian: Array) -> Array:
    """U with U^T U = H^-1, upper triangular; a channel that is always zero counts as one of its own, of mean size."""
    h = hessian.astype(np.float64).copy()
    used = np.diag(h) > 0
    dead = np.flatnonzero(~used)
    h[dead, dead] = np.diag(h)[used].mean() if used.any() else 1.0
    h[np.diag_indices_from(h)] += DAMPING * np.mean(np.diag(h))
    factor: Array = np.linalg.cholesky(np.linalg.inv(h)).T
    return factor
