"""Coordinate descent over codes: each is moved to where the error of the products is least, given all the others.

GPTQ (`gptq`) goes through the rows once, and what it has rounded it never looks at again. The squared error of the
products, tr((W - Q)^T H (W - Q)), is a quadratic form in each code of Q, so that its best value is known exactly:
q + (H (W - Q))_ij / H_ii, rounded to the grid. Going through all rows a few times more lowers the error with every
change, as in QuantEase (Behdin et al. 2023, "QuantEase: Optimization-based quantization for language models",
algorithm 1). Matrices are [in, out] here.
"""

from __future__ import annotations

import numpy as np

from aigc_calibration.grids import Grid
from aigc_runtime.core.tensors import Array

__all__ = ["descend_codes"]

BATCH = 32
"""Rows whose changes reach the others in one product."""


def descend_codes(
    matrix: Array, hessian: Array, codes: Array, steps: Array, zeros: Array, grid: Grid, *, sweeps: int
) -> Array:
    """Move codes, one after the other, each to where the error of the products is least. The error never grows.

    Args:
        matrix: [in, out] float64, the weight.
        hessian: [in, in] float64, second moments of what it is multiplied with, each on the diagonal above zero.
        codes: [in, out], as they are now.
        steps: [in, out] float64, the scale of each code.
        zeros: [in, out], the code that stands for zero.
        grid: what the codes are on.
        sweeps: times that all rows are gone through.

    Returns:
        [in, out] of the codes' type.
    """
    found, moved = codes.copy(), (codes - zeros) * steps
    # H (W - Q) changes with every code that moves.
    gradient = hessian @ (matrix - moved)
    rows, own = len(matrix), np.diag(hessian)
    for _ in range(sweeps):
        for first in range(0, rows, BATCH):
            last = min(first + BATCH, rows)
            changes = np.empty((last - first, matrix.shape[1]))
            for i in range(first, last):
                best = moved[i] + gradient[i] / own[i]
                found[i] = grid.round_codes(best / steps[i] + zeros[i])
                change = (found[i] - zeros[i]) * steps[i] - moved[i]
                moved[i] += change
                changes[i - first] = change
                gradient[first:last] -= hessian[first:last, i, None] * change
            for others in (slice(0, first), slice(last, rows)):
                gradient[others] -= hessian[others, first:last] @ changes
    return found
